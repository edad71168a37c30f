package main

import (
	"cmp"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"

	"github.com/spf13/cobra"

	"github.com/headgate/headgate/server/admin"
)

// defaultData is the data directory if none is said.
const defaultData = "headgate-data"

// adminCommand declares the flags by which a verb reaches the administration.
// The function returns where to ask and with which token.
func adminCommand(cmd *cobra.Command) func() (*remote, error) {
	server := addServerFlag(cmd)
	tokenFile := cmd.Flags().String("token-file", "", "`FILE` with the admin token (default: HEADGATE_TOKEN, HEADGATE_TOKEN_FILE, or DATA/"+admin.TokenFile+" for a server on this machine)")
	data := cmd.Flags().String("data", "", "data `DIR` of the server (default "+defaultData+") [HEADGATE_DATA]")
	cmd.Flags().SortFlags = false
	return func() (*remote, error) {
		r := server()
		var err error
		r.token, err = findToken(r, *tokenFile, cmp.Or(*data, os.Getenv("HEADGATE_DATA"), defaultData))
		return r, err
	}
}

// findToken looks for the admin token. That of the data directory is for
// servers on this machine only: others get no token that was not meant for
// them.
func findToken(r *remote, file, data string) (string, error) {
	token, err := saidToken(file)
	if token != "" || err != nil {
		return token, err
	}
	if !r.local() {
		return "", fmt.Errorf("the administration of %s needs a token: name its file with --token-file, or set HEADGATE_TOKEN", r.address)
	}
	return readToken("no admin token (say where it is with --token-file, HEADGATE_TOKEN or --data)", filepath.Join(data, admin.TokenFile))
}

// saidToken returns the token in the file that --token-file names, or else in
// HEADGATE_TOKEN; "" if nothing was said.
func saidToken(file string) (string, error) {
	if file != "" {
		return readToken("--token-file", file)
	}
	token, said, err := environment("HEADGATE_TOKEN", true)
	if err != nil || !said {
		return "", err
	}
	if err := admin.CheckToken(token); err != nil {
		return "", fmt.Errorf("HEADGATE_TOKEN: %w", err)
	}
	return token, nil
}

func readToken(what, file string) (string, error) {
	token, err := admin.ReadToken(file)
	if err != nil {
		return "", fmt.Errorf("%s: %w", what, err)
	}
	return token, nil
}

// environment returns what a variable says. Secrets can also stand in a file
// that NAME_FILE names.
func environment(name string, secret bool) (value string, said bool, err error) {
	value, said = os.LookupEnv(name)
	file := os.Getenv(name + "_FILE")
	if !secret || file == "" {
		return value, said, nil
	}
	if said {
		return "", false, errors.New(name + " and " + name + "_FILE are both set: keep one")
	}
	data, err := os.ReadFile(file)
	if err != nil {
		return "", false, fmt.Errorf("%s_FILE: %w", name, err)
	}
	return strings.TrimRight(string(data), "\r\n"), true, nil
}
