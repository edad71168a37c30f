package gate

// ThrottlesReadyForTest returns how many limits that callers described are kept.
func (g *Gate) ThrottlesReadyForTest() int {
	g.throttles.mu.RLock()
	defer g.throttles.mu.RUnlock()
	return len(g.throttles.ready)
}

// OverridesReadyForTest returns how many limits that requests said are kept for an
// application.
func (g *Gate) OverridesReadyForTest(application string) int {
	o := &g.current.Load().applications[application].overrides
	o.mu.RLock()
	defer o.mu.RUnlock()
	return len(o.ready)
}

// LinesForTest returns how many lines there are.
func (g *Gate) LinesForTest() int {
	g.lines.mu.Lock()
	defer g.lines.mu.Unlock()
	return len(g.lines.busy) + len(g.lines.watches)
}

// ReceivedForTest returns how many limits of answers are kept.
func ReceivedForTest() int {
	received.mu.RLock()
	defer received.mu.RUnlock()
	return len(received.ready)
}
