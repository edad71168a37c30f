package sqlitestore

import (
	"context"
	"database/sql/driver"
	"errors"
	"fmt"
	"os"

	"github.com/headgate/headgate/store/memstore"
)

// Check reads all of the database in dir, which no process may use meanwhile, and
// returns what of it is not as it was written: a fault of its structure or its
// write-ahead log, or up to ten rows, joined. It changes no state.
func Check(ctx context.Context, dir string) (err error) {
	if err := fits(dir, mostDir); err != nil {
		return fmt.Errorf("sqlitestore: %w", err)
	}
	if _, err := os.Stat(fileOf(dir)); err != nil {
		return fmt.Errorf("sqlitestore: %w", explainFile(dir, err))
	}
	held, err := lock(dir, "headgate check")
	if err != nil {
		return fmt.Errorf("sqlitestore: %w", err)
	}
	defer held.Close()
	if _, err := inspect(dir); err != nil {
		return fmt.Errorf("sqlitestore: %w", err)
	}
	if err = checkLog(fileOf(dir)); err == nil {
		err = checkFile(ctx, fileOf(dir))
	}
	if err != nil {
		return fmt.Errorf("sqlitestore: %w", explain(dir, err))
	}
	return nil
}

// checkFile checks the database in file.
func checkFile(ctx context.Context, file string) (err error) {
	c, err := connect(file)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, c.Close()) }()
	if err := c.keepWAL(true); err != nil {
		return err
	}
	found, err := c.schemaOf(ctx)
	switch {
	case err != nil:
		return err
	case found == 0:
		return damaged("it has no tables")
	case found > schema:
		return &newerError{found}
	}
	return c.checkAll(ctx)
}

// mostFaults is how many faults are looked for.
const mostFaults = 10

// checkAll checks the structure of the database and every checksum in it.
func (c *conn) checkAll(ctx context.Context) error {
	if err := c.verify(ctx, "integrity_check"); err != nil {
		return err
	}
	if _, err := c.readMeta(ctx); err != nil {
		return err
	}
	d := newDictionary()
	if err := d.load(ctx, c); err != nil {
		return err
	}
	if _, err := d.readUses(ctx, c); err != nil {
		return err
	}
	var faults []error
	for _, table := range [...]string{"state", "bans"} {
		err := c.query(ctx, `select key, until, numbers, value from `+table, 4, func(columns []driver.Value) error {
			key, _ := columns[0].([]byte)
			err := error(nil)
			if len(key) != keyBytes {
				err = damaged("row %x of table %s has a key of %d bytes", key, table, len(key))
			} else {
				err = d.fill(table, &memstore.Record{Key: keyOf(key)}, columns[1:])
			}
			if err != nil && len(faults) < mostFaults {
				faults = append(faults, err)
			}
			return nil
		})
		if err != nil {
			return err
		}
	}
	return errors.Join(faults...)
}
