package gate

// ThrottlesReadyForTest returns how many limits that callers described are kept.
func (g *Gate) ThrottlesReadyForTest() int {
	g.throttles.mu.RLock()
	defer g.throttles.mu.RUnlock()
	return len(g.throttles.ready)
}

// LinesForTest returns how many lines there are.
func (g *Gate) LinesForTest() int {
	g.lines.mu.Lock()
	defer g.lines.mu.Unlock()
	return len(g.lines.busy) + len(g.lines.watches)
}
