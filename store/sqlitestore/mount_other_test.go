//go:build !linux

package sqlitestore

import (
	"errors"
	"testing"
)

func mount(*testing.T, string, string) error { return errors.ErrUnsupported }

func resize(string, string) error { return errors.ErrUnsupported }
