package sqlitestore

import (
	"bufio"
	"bytes"
	"encoding/binary"
	"errors"
	"io"
	"io/fs"
	"os"
)

// A write-ahead log is, big-endian
// (https://www.sqlite.org/fileformat2.html#the_write_ahead_log):
//
//	head: magic, version, size of a page, number (4 each), salts (8), checksum (8) of these
//	frames: page, 0 or how many pages there are after a commit (4 each), salts (8), checksum (8), the page's content
//
// The checksum of a frame covers its first 8 bytes and the content, and goes on from that of the
// frame before. A log that begins anew has other salts, and frames of the old
// one may follow its own.
const (
	walHead   = 32
	frameHead = 24
	walMagic  = 0x377f0682 // and 1 more where checksums are of big-endian words

	indexSuffix = "-shm"
	// indexHead is the head of the index, in the machine's own byte order: how many frames were
	// committed (at 16), the salts (at 32) and a checksum (at 40) of what is before.
	indexHead = 48
)

// checkLog fails with [damage] if commits are missing from the write-ahead log of
// the database in file, which nobody uses. It must come before SQLite opens the database.
//
// For SQLite the log ends before the first frame that is not as it was written. That is
// right where the power was cut during a commit: what of its frames is on the disk is
// anybody's guess. But each commit is synced before the next one writes, and none pads the log, so
// from there on at most one frame can be the end of a commit. Where there are two, or where
// the index, which is told of commits that are synced, knows of more frames, what is missing was
// acknowledged.
//
// What the log has is synced then: SQLite builds the index anew from it, and may
// find what a process has written that was killed before it could sync.
func checkLog(file string) error {
	f, err := os.OpenFile(file+walSuffix, os.O_RDWR, 0)
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err != nil {
		return explainFile(file+walSuffix, err)
	}
	defer f.Close()
	l, err := scanLog(bufio.NewReaderSize(f, 1<<20))
	if err != nil {
		return err
	}
	known, err := indexed(file, l.salts)
	switch {
	case err != nil:
		return err
	case l.ends > 1:
		return damaged("frame %d of the write-ahead log is not as it was written, and %d commits come after it", l.bad, l.ends)
	case known > l.committed:
		return damaged("the write-ahead log has %d frames that are as they were written, and had %d", l.committed, known)
	}
	return f.Sync()
}

// scanned is what a log has.
type scanned struct {
	salts []byte
	// committed is how many frames SQLite finds: those up to the last commit before frame
	// bad, the first that is not as it was written; both count from 1.
	committed, bad int64
	// ends counts the frames behind bad that end a commit of the same log, and are as
	// they were written after the one before.
	ends int
}

// scanLog reads a log. One that is shorter than its head has nothing.
func scanLog(r io.Reader) (l scanned, err error) {
	head := make([]byte, walHead)
	if _, err := io.ReadFull(r, head); err != nil {
		return l, unlessEnd(err)
	}
	magic, size := binary.BigEndian.Uint32(head), binary.BigEndian.Uint32(head[8:])
	var order binary.ByteOrder = binary.LittleEndian
	if magic&1 != 0 {
		order = binary.BigEndian
	}
	sum := sumOf(order, checksums{}, head[:24])
	if magic&^1 != walMagic || sum != storedIn(head[24:]) || size < 512 || size > 1<<16 {
		// A head is synced before any frame is written.
		n, err := io.ReadFull(r, make([]byte, 1))
		if n > 0 || !bytes.Equal(head, make([]byte, walHead)) {
			return l, damaged("the head of the write-ahead log is not as it was written")
		}
		return l, unlessEnd(err)
	}
	l.salts = head[16:24]
	frame := make([]byte, frameHead+size)
	for n := int64(1); ; n++ {
		if _, err := io.ReadFull(r, frame); err != nil {
			return l, unlessEnd(err)
		}
		stored := storedIn(frame[16:])
		good := bytes.Equal(frame[8:16], l.salts) && sumOf(order, sumOf(order, sum, frame[:8]), frame[frameHead:]) == stored
		end := binary.BigEndian.Uint32(frame[4:]) != 0
		switch {
		case !good && l.bad == 0:
			l.bad = n
		case good && end && l.bad == 0:
			l.committed = n
		case good && end:
			l.ends++
		}
		sum = stored
	}
}

// unlessEnd returns an error of reading, but for the file's end.
func unlessEnd(err error) error {
	if err == io.EOF || err == io.ErrUnexpectedEOF {
		return nil
	}
	return err
}

// checksums is a checksum of SQLite's: two sums.
type checksums [2]uint32

// sumOf goes on from a checksum over b, an even number of words.
func sumOf(order binary.ByteOrder, s checksums, b []byte) checksums {
	for ; len(b) >= 8; b = b[8:] {
		s[0] += order.Uint32(b) + s[1]
		s[1] += order.Uint32(b[4:]) + s[0]
	}
	return s
}

func storedIn(b []byte) checksums {
	return checksums{binary.BigEndian.Uint32(b), binary.BigEndian.Uint32(b[4:])}
}

// indexed returns how many frames were committed to the log with these salts, as
// the index says that the last process has left, 0 if it says nothing of that log.
func indexed(file string, salts []byte) (int64, error) {
	f, err := os.OpenFile(file+indexSuffix, os.O_RDWR, 0) // SQLite will write to it
	if errors.Is(err, fs.ErrNotExist) {
		return 0, nil
	}
	if err != nil {
		return 0, explainFile(file+indexSuffix, err)
	}
	defer f.Close()
	head := make([]byte, indexHead)
	if _, err := io.ReadFull(f, head); err != nil {
		return 0, unlessEnd(err)
	}
	order := binary.NativeEndian
	sum := sumOf(order, checksums{}, head[:40])
	if sum != (checksums{order.Uint32(head[40:]), order.Uint32(head[44:])}) || !bytes.Equal(head[32:40], salts) {
		return 0, nil
	}
	return int64(order.Uint32(head[16:])), nil
}
