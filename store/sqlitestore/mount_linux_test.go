package sqlitestore

import (
	"syscall"
	"testing"
)

// mount makes dir a file system of that size, which can be changed with resize. It
// fails for who may not.
func mount(t *testing.T, dir, size string) error {
	err := syscall.Mount("none", dir, "tmpfs", 0, "size="+size)
	if err == nil {
		t.Cleanup(func() {
			if err := syscall.Unmount(dir, syscall.MNT_DETACH); err != nil {
				t.Error(err)
			}
		})
	}
	return err
}

func resize(dir, size string) error {
	return syscall.Mount("none", dir, "tmpfs", syscall.MS_REMOUNT, "size="+size)
}
