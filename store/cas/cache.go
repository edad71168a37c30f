package cas

import "github.com/headgate/headgate/store/record"

// cached is an item as it was last found.
type cached struct {
	item  Item // without its value
	size  int  // of the value
	owner record.Owner
	err   error // why the item cannot be read
	told  int64 // the group for which the table told it
}

// cache is what a lane remembers of items.
type cache struct {
	items map[Key]*cached
	size  int // of all values
}

const (
	// mostCached is how many items the lanes remember, about 400 bytes each.
	mostCached = 1 << 17
	// mostCachedSize is how many bytes their values have at most, as they are written.
	// In memory they take up to eight times as many.
	mostCachedSize = 32 << 20
)

func (c *cache) init() { c.items, c.size = make(map[Key]*cached), 0 }

// remember notes an item as the table has it.
func (c *cache) remember(item Item) *cached {
	var x cached
	x.err = x.owner.Decode(item.Value)
	return c.know(item, x)
}

// know notes what an item says.
func (c *cache) know(item Item, x cached) *cached {
	known := c.items[item.Key]
	if known == nil {
		known = new(cached)
		c.items[item.Key] = known
	}
	x.item, x.size = item, len(item.Value)
	x.item.Value = nil
	c.size += x.size - known.size
	*known = x
	return known
}

// drop forgets an item.
func (c *cache) drop(k Key) {
	if known := c.items[k]; known != nil {
		c.size -= known.size
		delete(c.items, k)
	}
}

// clear forgets all items.
func (c *cache) clear() {
	clear(c.items)
	c.size = 0
}

// trim forgets items, in no order, where there are more than most or their values
// are larger than mostSize: until there is room for half of that.
func (c *cache) trim(most, mostSize int) {
	if len(c.items) <= most && c.size <= mostSize {
		return
	}
	for k := range c.items {
		if len(c.items) <= most/2 && c.size <= mostSize/2 {
			return
		}
		c.drop(k)
	}
}
