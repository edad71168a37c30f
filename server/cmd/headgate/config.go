package main

import (
	"errors"
	"fmt"
	"os"
	"slices"
	"strings"

	"github.com/goccy/go-yaml"
	"github.com/goccy/go-yaml/ast"
	"github.com/goccy/go-yaml/parser"

	"github.com/headgate/headgate"
)

// maxConfig is the largest configuration file in bytes.
const maxConfig = 1 << 20

// configFile is what a --config file says. It reads YAML, and JSON as part of it.
type configFile struct {
	// values are those of each key that holds some: one, or a list.
	values map[string][]string
	// names are those of the entries of each key that holds named ones, as they stand.
	names map[string][]string
}

// one returns the value of a key, and whether it was said.
func (c *configFile) one(key string) (value string, said bool) {
	v, said := c.values[key]
	if said {
		value = v[0]
	}
	return value, said
}

// configFaults are what is wrong with a configuration file, one FILE:LINE:COL: key: message
// each.
type configFaults []error

// Error returns one fault a line.
func (f configFaults) Error() string { return errors.Join(f...).Error() }

// Unwrap returns the faults.
func (f configFaults) Unwrap() []error { return f }

// readConfig reads the file strictly. The error is of type [configFaults] where it could
// be read.
func readConfig(file string) (*configFile, error) {
	data, err := os.ReadFile(file)
	if err != nil {
		return nil, fmt.Errorf("--config: %w", err)
	}
	if len(data) > maxConfig {
		return nil, fmt.Errorf("--config %s: %d bytes, at most %d", file, len(data), maxConfig)
	}
	r := &configReader{file: file, configFile: configFile{values: map[string][]string{}, names: map[string][]string{}}}
	r.document(data)
	if len(r.faults) > 0 {
		return nil, r.faults
	}
	return &r.configFile, nil
}

type configReader struct {
	configFile
	file   string
	faults configFaults
}

func (r *configReader) fault(line, column int, key, format string, args ...any) {
	where := fmt.Sprintf("%s:%d:%d: ", r.file, line, column)
	if key != "" {
		where += key + ": "
	}
	r.faults = append(r.faults, errors.New(where+fmt.Sprintf(format, args...)))
}

func (r *configReader) at(n ast.Node, key, format string, args ...any) {
	p := n.GetToken().Position
	r.fault(p.Line, p.Column, key, format, args...)
}

func (r *configReader) document(data []byte) {
	tree, err := parser.ParseBytes(data, 0)
	if err != nil {
		line, column, message := 1, 1, err.Error()
		if e, ok := errors.AsType[yaml.Error](err); ok {
			line, column, message = e.GetToken().Position.Line, e.GetToken().Position.Column, e.GetMessage()
		}
		r.fault(line, column, "", "%s", message)
		return
	}
	if len(tree.Docs) != 1 || tree.Docs[0].Body == nil {
		r.fault(1, 1, "", "must be one document that begins with version: 1")
		return
	}
	r.section(tree.Docs[0].Body, nil, "", configKeys)
	if _, said := r.one("version"); !said && len(r.faults) == 0 {
		r.fault(1, 1, "version", "is required: version: 1")
	}
}

// section reads a mapping with the given keys, which stands at path; key is where that
// stands in the file.
func (r *configReader) section(n, key ast.Node, path string, keys []configKey) {
	m, ok := n.(*ast.MappingNode)
	if !ok {
		r.at(n, path, "must be a mapping of keys to values")
		return
	}
	var had []string
	for _, v := range m.Values {
		name := v.Key.GetToken().Value
		at := below(path, name)
		i := slices.IndexFunc(keys, func(k configKey) bool { return k.name == name })
		switch {
		case i < 0:
			r.at(v.Key, at, "unknown key; there are %s", strings.Join(known(keys), ", "))
		case keys[i].kind == later:
			r.at(v.Key, at, "not supported yet")
		default:
			had = append(had, name)
			r.value(v.Value, v.Key, at, &keys[i])
		}
	}
	for _, k := range keys {
		if k.required && !slices.Contains(had, k.name) {
			r.at(key, below(path, k.name), "is required")
		}
	}
}

// below is the key of that name below path.
func below(path, name string) string {
	if path == "" {
		return name
	}
	return path + "." + name
}

// known returns the names of the keys that are built.
func known(keys []configKey) []string {
	var names []string
	for _, k := range keys {
		if k.kind != later {
			names = append(names, k.name)
		}
	}
	return names
}

// value reads what a key holds.
func (r *configReader) value(n, key ast.Node, path string, k *configKey) {
	switch k.kind {
	case section:
		r.section(n, key, path, k.keys)
	case named:
		r.named(n, path, k.keys)
	case list:
		r.list(n, path, k)
	case listed:
		r.listed(n, key, path, k.keys)
	default:
		if v, ok := r.scalar(n, path, k); ok {
			r.values[path] = []string{v}
		}
	}
}

// named reads a mapping of names to mappings with the given keys.
func (r *configReader) named(n ast.Node, path string, keys []configKey) {
	m, ok := n.(*ast.MappingNode)
	if !ok {
		r.at(n, path, "must be a mapping of names to mappings")
		return
	}
	for _, v := range m.Values {
		name := v.Key.GetToken().Value
		if err := headgate.CheckName(name); err != nil {
			r.at(v.Key, path, "%v", err)
			continue
		}
		r.names[path] = append(r.names[path], name)
		r.section(v.Value, v.Key, below(path, name), keys)
	}
}

// listed reads a list of mappings with the given keys; their names are their places.
func (r *configReader) listed(n, key ast.Node, path string, keys []configKey) {
	items, ok := n.(*ast.SequenceNode)
	if !ok {
		r.at(n, path, "must be a list of mappings")
		return
	}
	for i, item := range items.Values {
		at := fmt.Sprintf("%s[%d]", path, i)
		r.names[path] = append(r.names[path], at)
		r.section(item, key, at, keys)
	}
}

// list reads values, each of them once.
func (r *configReader) list(n ast.Node, path string, k *configKey) {
	items, ok := n.(*ast.SequenceNode)
	if !ok {
		r.at(n, path, "must be a list of strings")
		return
	}
	values := []string{}
	for i, item := range items.Values {
		at := fmt.Sprintf("%s[%d]", path, i)
		v, ok := r.scalar(item, at, k)
		switch {
		case !ok:
		case slices.Contains(values, v):
			r.at(item, at, "is there twice")
		default:
			values = append(values, v)
		}
	}
	r.values[path] = values
}

func (r *configReader) scalar(n ast.Node, path string, k *configKey) (value string, ok bool) {
	switch n := n.(type) {
	case *ast.StringNode:
		value = n.Value
	case *ast.LiteralNode:
		value = n.Value.Value
	case *ast.IntegerNode:
		value = n.GetToken().Value
	case *ast.BoolNode:
		value = n.GetToken().Value
	default:
		r.at(n, path, "must be a string")
		return "", false
	}
	var err error
	if k.check != nil {
		err = k.check(value)
	}
	if k.load != nil {
		value, err = k.load(value)
	}
	if err != nil {
		r.at(n, path, "%v", err)
	}
	return value, err == nil
}
