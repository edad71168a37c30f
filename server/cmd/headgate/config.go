package main

import (
	"errors"
	"fmt"
	"os"
	"slices"
	"strconv"
	"strings"

	"github.com/goccy/go-yaml"
	"github.com/goccy/go-yaml/ast"
	"github.com/goccy/go-yaml/parser"
)

// maxConfig is the largest configuration file in bytes.
const maxConfig = 1 << 20

// laterKeys are the contract's keys for what is not built yet.
var laterKeys = []string{
	"tls", "auth", "upstreams", "queue", "webhooks", "retention", "listen.grpc", "listen.resp",
}

// configKeys are the keys that a configuration file may hold.
var configKeys = []string{"version", "listen", "listen.http", "listen.admin", "log", "log.level", "log.format", "store", "records"}

// configFile is what a --config file says, by key. It reads YAML, and JSON as
// part of it.
type configFile map[string]string

// readConfig reads the file strictly and returns every fault that it has, one
// FILE:LINE:COL: key: message a line.
func readConfig(file string) (configFile, error) {
	data, err := os.ReadFile(file)
	if err != nil {
		return nil, fmt.Errorf("--config: %w", err)
	}
	if len(data) > maxConfig {
		return nil, fmt.Errorf("--config %s: %d bytes, at most %d", file, len(data), maxConfig)
	}
	r := &configReader{file: file, values: configFile{}}
	r.document(data)
	if len(r.faults) > 0 {
		return nil, errors.Join(r.faults...)
	}
	return r.values, nil
}

type configReader struct {
	file   string
	values configFile
	faults []error
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
	if r.mapping(tree.Docs[0].Body, ""); len(r.faults) == 0 && r.values["version"] == "" {
		r.fault(1, 1, "version", "is required: version: 1")
	}
}

// mapping reads the keys below prefix.
func (r *configReader) mapping(n ast.Node, prefix string) {
	m, ok := n.(*ast.MappingNode)
	if !ok {
		r.at(n, strings.TrimSuffix(prefix, "."), "must be a mapping of keys to values")
		return
	}
	for _, v := range m.Values {
		key := prefix + v.Key.GetToken().Value
		switch {
		case slices.Contains(laterKeys, key):
			r.at(v.Key, key, "not supported yet")
		case !slices.Contains(configKeys, key):
			r.at(v.Key, key, "unknown key; there are %s", strings.Join(siblings(prefix), ", "))
		case key == "listen" || key == "log":
			r.mapping(v.Value, key+".")
		default:
			r.scalar(v.Value, key)
		}
	}
}

// siblings returns the keys directly below prefix.
func siblings(prefix string) []string {
	var names []string
	for _, k := range configKeys {
		if name, ok := strings.CutPrefix(k, prefix); ok && !strings.Contains(name, ".") {
			names = append(names, name)
		}
	}
	return names
}

func (r *configReader) scalar(n ast.Node, key string) {
	var value string
	switch n := n.(type) {
	case *ast.StringNode:
		value = n.Value
	case *ast.IntegerNode:
		value = n.GetToken().Value
	default:
		r.at(n, key, "must be a string")
		return
	}
	switch {
	case key == "version" && value != "1":
		r.at(n, key, "%s: must be 1", strconv.Quote(value))
	case key == "log.level" && !slices.Contains(logLevels, value):
		r.at(n, key, "%s: must be one of %s", strconv.Quote(value), strings.Join(logLevels, ", "))
	case key == "log.format" && !slices.Contains(logFormats, value):
		r.at(n, key, "%s: must be one of %s", strconv.Quote(value), strings.Join(logFormats, ", "))
	default:
		r.values[key] = value
	}
}
