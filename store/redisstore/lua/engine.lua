-- Decides a group of calls, one after the other.
local UNDO, ACQUIRE = 8, 9

local function forget_leases(b)
  if not b.leases then return end
  b.leases = false
  local holds, h = use('holds'), b.s.h
  local i = holds.find(h, LEASE, -HUGE)
  if i then holds.remove(h, i) end
  if b.l.a == 0 then b.s[3] = nil end
end

-- recover makes a budget what can be relied on after writes may have been lost. It
-- follows from the record and the epoch alone, so it need not be written.
local function recover(e)
  e.epoch = EPOCH
  forget_leases(e)
  if e.l.a < 2 then
    e.s[2] = max(e.s[2], SINCE)
    use('bucket').below(e.l, e.s, e.l.burst)
  end
end

local function calendar(x, l, at)
  if l.a ~= 5 then return nil end
  local quota = use('quota')
  if l.cal and quota.covers(l, at) then return nil end
  local cal, pos = {}, 1
  while pos < #x.cal do
    local p = {}
    p[1], p[2], p[3], pos = read('<ddd', x.cal, pos)
    cal[#cal + 1] = p
  end
  l.cal = cal
  if quota.covers(l, at) then return nil end
  return at
end

local function unseen(l, now)
  local s = algorithm(l).init(l, now)
  if SINCE > 0 and l.a < 2 then s[1], s[2] = 0, SINCE end
  return s
end

-- load finds the budget b of a charge under its numbers. fresh says that there was none,
-- other that it was kept under other numbers; else b is the record itself, and what is
-- done to it must be written. It returns the instant for which a calendar is missing.
local function load(x)
  local e, l = x.hash.known[x.field], limit(x.num)
  x.e, x.fresh, x.other = e, false, false
  local missing = calendar(x, l, NOW)
  if missing then return missing end
  if not e.l or NOW >= absent(e) then
    x.fresh, x.b = true, { num = x.num, l = l, s = unseen(l, NOW), keep = 0, leases = false }
    return nil
  end
  if e.epoch ~= EPOCH then recover(e) end
  if e.num == x.num then
    x.b = e
    return calendar(x, l, max(NOW, algorithm(l).seen(l, e.s)))
  end
  local convert = use('convert')
  local at = convert.at(e.l, e.s, NOW)
  missing = calendar(x, l, at)
  if missing then return missing end
  local b = { num = x.num, l = l, s = convert.convert(e.l, l, e.s, at), keep = absent(e), leases = e.leases }
  if b.leases and l.a ~= 0 and not convert.same_tags(e.l, l) then forget_leases(b) end
  if b.leases then
    local copy = {}
    for i = 1, #b.leases do
      local y = b.leases[i]
      copy[i] = { holder = y.holder, granted = y.granted, settled = y.settled, returned = y.returned, seen = y.seen }
    end
    b.leases = copy
  end
  x.other, x.b = true, b
  return nil
end

-- commit makes what was decided of a charge's budget its record.
local function commit(x)
  local e, b = x.e, x.b
  if b ~= e then
    e.num, e.l, e.s, e.keep, e.leases, e.epoch = b.num, b.l, b.s, b.keep, b.leases, EPOCH
  end
  mark(e)
end

-- leased reports whether anything is out.
local function leased(b)
  local holds = use('holds')
  local i = holds.find(b.s.h, LEASE, max(NOW, algorithm(b.l).seen(b.l, b.s)))
  if not i then return false end
  local _, _, amount = holds.at(b.s.h, i)
  return amount > 0
end

-- closed reports whether the budget refuses the call because what of it was lost may
-- still be spent.
local function closed(c, l)
  local a = l.a
  return NOW < SINCE and c.cost > 0 and c.op <= PEEK and a >= 2 and a <= 5 and not l.soft
end

-- run does the call on a budget and returns the outcome.
local function run(c, b)
  local l = b.l
  local o = outcome(l)
  if closed(c, l) then
    local op = c.op
    c.op = PEEK
    algorithm(l).apply(c, l, b.s, o)
    c.op, o.ok = op, false
    if not o.never then o.retry = max(o.retry, SINCE - NOW) end
  else
    algorithm(l).apply(c, l, b.s, o)
  end
  o.leased = b.leases and leased(b)
  return o
end

local function look(c, b, cost)
  local op, was = c.op, c.cost
  c.op, c.cost = PEEK, cost
  local o = run(c, b)
  c.op, c.cost = op, was
  return o
end

local function reserves(c, l) return c.op == TAKE and c.holdfor > 0 and c.hold and l.a < 6 end

-- full reports whether a budget has as many reservations as may be open at once.
local function full(b)
  local h = b.s.h
  if not h or h.n < 10000 then return false end
  return use('holds').ended(h, max(NOW, algorithm(b.l).seen(b.l, b.s))) == 0
end

local function tell(o)
  local flags = (o.ok and 1 or 0) + (o.never and 2 or 0) + (o.leased and 4 or 0)
  return pack('<Bdddddddd', flags, o.limit, o.used, o.remaining, o.overage, o.retry, o.reset, o.delay, o.resets)
end

local function answer(charges, allowed, replayed, hold)
  local parts = { pack('<BBdc8', 0, (allowed and 1 or 0) + (replayed and 2 or 0), NOW, hold) }
  for i = 1, #charges do parts[i + 1] = tell(charges[i].o) end
  return table.concat(parts)
end

-- recovering reports whether a refusal by the limit may be due to an incarnation that began
-- a short while ago, and not to what its owner did.
local function recovering(l)
  if SINCE == 0 or l.a >= 6 then return false end
  if l.a < 2 then return NOW - SINCE < -floor(-l.cap / l.n) end
  return NOW < SINCE
end

-- deny counts a refused batch towards the bans of those whose own limits have refused.
local function deny(charges, c)
  local banned, counts = {}, {}
  for i = 1, #charges do
    local x = charges[i]
    if not x.o.ok and not x.shadow then
      if x.b.l.a == 7 then banned[x.owner] = true end
      if not x.parent and not x.o.never and not recovering(x.b.l) then counts[x.owner] = true end
    end
  end
  for i = 1, #charges do
    local x = charges[i]
    if x.b.l.a == 7 and counts[x.owner] and not banned[x.owner] then
      use('ban').deny(x.b.l, x.b.s, NOW)
      x.o = look(c, x.b, 0)
      commit(x)
    end
  end
end

-- plain makes the outcome of a charge that is held on trial that of one which is not:
-- what is held for a moment must not show in the instant at which all is as never seen.
local function plain(q, c, x)
  local s, holds, bucket = x.b.s, use('holds'), x.b.l.a < 2
  local h, full = s.h, s[3]
  s.h = holds.copy(h)
  holds.remove(s.h, holds.find(h, q.trial, NOW))
  if bucket then s[3] = nil end
  x.o.reset = look(c, x.b, 0).reset
  s.h = h
  if bucket then s[3] = full end
end

-- take looks at every limit first, and charges them only if all pass.
local function take(q, charges, c)
  local keys
  if q.keyed then
    for i = 1, #charges do
      if not keys and charges[i].b.l.a == 8 then keys = charges[i] end
    end
  end
  if keys then
    local print, hold = use('idempotency').recall(keys.b.s, q.id, NOW)
    if print then
      if print ~= q.print then return pack('<Bd', 3, NOW) end
      for i = 1, #charges do charges[i].o = look(c, charges[i].b, 0) end
      return answer(charges, true, true, hold or NONE)
    end
  end
  local allowed, crowded, n = true, false, #charges
  for i = 1, n do
    local x = charges[i]
    local l = x.b.l
    q.name(c, x)
    local room = not (reserves(c, l) and full(x.b))
    if i == n and allowed and room and not crowded and l.a < 7 then -- the last decides: it need not be asked first
      c.cost = x.cost
      x.o, x.done = run(c, x.b), true
    else
      x.o = look(c, x.b, x.cost)
    end
    if not x.o.ok then
      allowed = allowed and x.shadow
    elseif not room then
      crowded = true
    end
  end
  if allowed and crowded then return pack('<Bd', 4, NOW) end
  for i = 1, n do
    local x = charges[i]
    local l, o = x.b.l, x.o
    if x == keys and allowed then
      if use('idempotency').remember(l, x.b.s, NOW, q.id, q.print, q.hold) then commit(x) end
      q.name(c, x)
      x.o = look(c, x.b, 0)
    elseif allowed and o.ok and l.a ~= 7 then
      q.name(c, x)
      c.cost = x.cost
      if not x.done then x.o = run(c, x.b) end
      if q.trial and q.holdfor == 0 and reserves(c, l) then plain(q, c, x) end
      if x.cost > 0 or reserves(c, l) then commit(x) end
    elseif x.other and not o.ok and not o.never and x.cost > 0 and l.a ~= 7 then
      commit(x) -- refused under these numbers: it goes on under them
    end
  end
  if not allowed and not q.again then deny(charges, c) end
  return answer(charges, allowed, false, q.hold)
end

-- visit does the operations that ask each limit for itself.
local function visit(q, charges, c)
  local allowed, op = true, c.op
  for i = 1, #charges do
    local x = charges[i]
    c.cost = x.cost
    local o = run(c, x.b)
    x.o = o
    allowed = allowed and (o.ok or x.shadow)
    local moved = true
    if op == PEEK or op == DEBIT and (x.cost == 0 or x.b.l.a >= 7) then
      moved = false
    elseif op == SETTLE or op == RENEW then
      moved = o.ok
    elseif op == RELEASE and x.b.l.a ~= 6 then
      moved = x.other
    end
    if moved and (not x.fresh or op == DEBIT) then commit(x) end
  end
  return answer(charges, allowed, false, q.hold)
end

local function reset(q, charges, c)
  for i = 1, #charges do
    local x = charges[i]
    if x.b.leases and use('lease').reset(x.b, NOW, unseen, forget_leases) then
      commit(x)
    else
      local l = x.b.l
      x.e.l = false
      mark(x.e)
      x.b = { l = l, s = unseen(l, NOW), keep = 0, leases = false }
    end
    x.o = look(c, x.b, 0)
  end
  return answer(charges, true, false, q.hold)
end

-- undo gives back what an earlier take charged that was allowed: by the name under which
-- it is held, or where the window, slot or entry of its instant still stands.
local function undo(q, charges, c)
  for i = 1, #charges do
    local x = charges[i]
    local a, m, moved = x.b.l.a, algorithm(x.b.l), false
    if x.fresh then
      moved = false
    elseif a == 6 then
      c.op, c.cost, c.hold = RELEASE, 0, q.held or q.trial
      if c.hold then
        run(c, x.b)
        moved = true
      end
    elseif a < 6 and q.trial and (x.cost > 0 or q.holdfor > 0) then
      c.op, c.cost, c.hold = SETTLE, 0, q.trial
      moved = run(c, x.b).ok
    elseif a >= 2 and a < 6 and x.cost > 0 and not x.other and q.at >= SINCE then -- else it may be lost
      local tag = m.tag(x.b.l, x.b.s, q.at)
      if tag ~= -HUGE then
        m.credit(x.b.l, x.b.s, NOW, tag, x.cost)
        moved = true
      end
    end
    if moved then commit(x) end
  end
  return pack('<B', 5)
end

-- question reads the head of a call, and where its charges begin. trial is the name
-- under which a take that may be undone is held: that of the batch's own reservation,
-- or one that it has for a moment.
local TRIAL_FOR = 2000000
local function question(p)
  local form, op, n, own, _, pos = read('<BBI2I2I2', p)
  local q = {
    form = form, op = op, n = n, own = own, hold = NONE, held = false, holdfor = 0, maxdelay = 0, trial = false, at = 0,
    again = false, keyed = false, id = false, print = false, name = false,
  }
  if form == 0 then
    local bits
    q.hold, q.holdfor, q.maxdelay, bits, q.id, q.print, q.trial, q.at, pos = read('<c8ddBc16c8c8d', p, pos)
    q.again, q.keyed = bits % 2 == 1, bits >= 2
    q.held = q.hold ~= NONE and q.hold ~= LEASE and q.hold
    if q.holdfor > 0 then q.trial = q.held elseif q.trial == NONE then q.trial = false end
  end
  return q, pos
end

-- name gives the call the name and the time for which the charge is held.
local function name(q)
  if not q.trial or q.holdfor > 0 then
    return function(c) c.hold, c.holdfor = q.held, q.holdfor end
  end
  return function(c, x)
    if x.b.l.a == 6 then
      c.hold, c.holdfor = q.held or q.trial, 0
    elseif x.cost > 0 then
      c.hold, c.holdfor = q.trial, TRIAL_FOR
    else
      c.hold, c.holdfor = false, 0
    end
  end
end

local base = 0 -- the keys of the calls before
local function decide(p)
  local q, pos = question(p)
  local charges = {}
  for i = 1, q.n do
    local k, field, flags, num, cost, owner, cal, r
    k, field, flags, num, cost, owner, cal, pos = read('<I2c16BI2c0dI2I2c0', p, pos)
    if q.form == 1 then
      pos = pos + 26
      if flags >= 4 and flags < 8 and limit(num).a == 7 then q.again = true end -- a ban that does not count
    end
    if q.op == ACQUIRE then r, pos = use('lease').request(p, pos) end
    charges[i] = {
      key = KEYS[base + k], field = field, shadow = flags % 2 == 1, parent = floor(flags / 2) % 2 == 1, num = num, cost = cost,
      owner = owner, cal = cal, r = r, hash = false, e = false, b = false, fresh = false, other = false, o = false, done = false,
    }
  end
  base = base + q.own
  fetch(charges)
  for i = 1, #charges do
    local missing = load(charges[i])
    if missing then return pack('<Bd', 2, missing) end
  end
  local c = call(q.op, NOW)
  c.hold, c.holdfor, c.maxdelay = q.held, q.holdfor, q.maxdelay
  if q.op == TAKE then
    q.name = name(q)
    return take(q, charges, c)
  elseif q.op == RESET then
    return reset(q, charges, c)
  elseif q.op == UNDO then
    return undo(q, charges, c)
  elseif q.op == ACQUIRE then
    local lease, parts = use('lease'), { pack('<Bd', 6, NOW) }
    for i = 1, #charges do
      local x = charges[i]
      load(x) -- once more: another request may have changed it
      local head, moved = lease.acquire(x.b, x.r, EPOCH, NOW, SINCE, forget_leases)
      if moved then commit(x) end
      x.o = look(c, x.b, max(0, x.r.least))
      parts[2 * i], parts[2 * i + 1] = head, tell(x.o)
    end
    return table.concat(parts)
  end
  return visit(q, charges, c)
end

local answers = {}
for i = 2, #ARGV do
  local p, from = ARGV[i], base
  for _ = 1, read('<I2', p, 7) do -- equal calls
    base = from
    answers[#answers + 1] = decide(p)
  end
end
for i = 1, #touched do save(touched[i]) end
return answers
