-- Token and leaky buckets: {level in units of 1/p token, the instant it is true for,
-- while anything is held the instant at which it will be full, nil if not known}.
-- Levels are -cap to cap, so that the way from a debt to the brim is up to 2^54, more
-- than doubles count: it is gone in two parts, up to nothing and on from there.
local LEAKY = 1
local M = {}

-- up returns the level v after that many microseconds, which stops at brim; a level
-- above the brim falls to it.
local function up(n, v, brim, elapsed)
  if v >= brim then return brim end
  if v < 0 and brim > 0 then
    local first = -floor(v / n)
    if elapsed <= first then return min(brim, v + elapsed * n) end
    v, elapsed = v + first * n, elapsed - first
    if v >= brim then return brim end
  end
  if elapsed > (brim - v) / n then return brim end
  return min(brim, v + elapsed * n)
end

-- eta returns in how many microseconds the level v reaches goal, which is not below it.
local function eta(n, v, goal)
  local first = 0
  if v < 0 and goal > 0 then
    first = -floor(v / n)
    v = v + first * n
    if v >= goal then return first end
  end
  return first - floor((v - goal) / n)
end

-- lower returns the level after tokens were taken, higher after they were given back up
-- to brim tokens; a level above the brim falls to it.
local function lower(p, v, tokens)
  local whole = floor(v / p)
  return (whole - tokens) * p + (v - whole * p)
end

local function higher(p, v, brim, tokens)
  local whole = floor(v / p)
  local rest = v - whole * p
  local room = brim - whole
  if rest > 0 and v <= brim * p then room = room - 1 end
  if tokens > room then return brim * p end
  return (whole + tokens) * p + rest
end

-- tell says in the outcome what the level is in tokens.
local function tell(l, v, o)
  local left, burst = floor(v / l.p), l.burst
  o.limit, o.used = burst, burst - left
  o.remaining, o.overage = max(0, left), max(0, -left)
end

-- step does a call, but for Settle and Renew, on a level v that is true skew later
-- than the call, and returns the level after it.
local function step(op, l, v, skew, cost, o)
  local p = l.p
  if op == TAKE or op == PEEK then
    local need = cost * p
    if cost > l.burst then
      o.ok, o.never = false, true
    elseif cost > 0 and v < need then
      o.ok, o.retry = false, eta(l.n, v, need) + skew
    else
      if l.a == LEAKY and v < l.cap then o.delay = eta(l.n, v, l.cap) + skew end
      if op == TAKE then v = v - need end
    end
  elseif op == REFUND then
    if l.a ~= LEAKY then v = higher(p, v, l.burst, cost) end
  elseif op == DEBIT then
    v = lower(p, v, min(cost, max(0, floor(v / p) + l.burst)))
  elseif op == SETTLE then -- of a bucket without holds
    o.ok = false
  end
  tell(l, v, o)
  o.reset = eta(l.n, v, l.cap) + skew
  return v
end

-- call is step for a leaky bucket whose delay may be too long.
local function call(c, l, v, skew, o)
  if c.maxdelay == 0 or c.cost == 0 or l.a ~= LEAKY or v == l.cap or c.op > PEEK then
    return step(c.op, l, v, skew, c.cost, o)
  end
  local late = eta(l.n, v, l.cap) + skew - c.maxdelay
  if late <= 0 then return step(c.op, l, v, skew, c.cost, o) end
  step(PEEK, l, v, skew, c.cost, o)
  o.ok, o.delay = false, 0
  if not o.never then o.retry = max(o.retry, late) end
  return v
end

-- The tide is a bucket on its way through time with holds open, which stop the refill:
-- the level does not rise above the capacity less what is held. It is made of values
-- that functions pass on: level v, instant at, next, the place of the hold that ends
-- next, and held, the tokens that stop the refill. Holds do not stop a leaky bucket.
local function tide(l, s)
  local h = s.h
  if not h or h.n == 0 or l.a == LEAKY then return s[1], s[2], h and h.n or 0, 0 end
  local n, amount = use('holds').ended(h, s[2])
  return s[1], s[2], n, h.sum - amount
end

-- brim is where the refill stops, in tokens: not below the deepest debt.
local function brim(l, held) return max(-l.burst, l.burst - held) end

local function fill(l, v, at, held, to)
  if to <= at then return v, at end
  return up(l.n, v, brim(l, held) * l.p, to - at), to
end

-- rise moves a tide to the instant, if it is later.
local function rise(l, h, v, at, next, held, to)
  local n = h and h.n or 0
  while next < n do
    local till, amount = use('holds').due(h, next + 1)
    if till > to then break end
    v, at = fill(l, v, at, held, till)
    next, held = next + 1, held - amount
  end
  v, at = fill(l, v, at, held, to)
  return v, at, next, held
end

-- reach returns the first instant from which on a tide is at goal, if nobody comes. It
-- may have thousands of holds to go by, so it does what fill does by itself.
local function reach(l, h, v, at, next, held, goal)
  local n, p, burst, last = l.n, l.p, l.burst, h and h.n or 0
  local due = use('holds').due
  while v < goal do
    if next == last then return at + eta(n, v, goal) end
    local till, amount = due(h, next + 1)
    local top = max(-burst, burst - held) * p
    if goal <= top then
      local there = at + eta(n, v, goal)
      if there <= till then return there end
    end
    local elapsed = till - at
    if elapsed > 0 then
      at = till
      if v < 0 and v < top then
        v = up(n, v, top, elapsed)
      elseif v >= top or elapsed > (top - v) / n then
        v = top
      else
        v = min(top, v + elapsed * n)
      end
    end
    next, held = next + 1, held - amount
  end
  return at
end

-- claim does Settle and Renew on the state s, brought to at.
local function claim(c, l, s, at, o)
  local change = use('holds').apply(s, c, at, o)
  if change == 0 then return end
  local v, _, _, held = tide(l, s)
  if change > 0 then
    s[1] = lower(l.p, v, min(change, max(0, floor(v / l.p) + l.burst)))
  elseif l.a ~= LEAKY then
    s[1] = higher(l.p, v, brim(l, held), -change)
  end
end

-- escrow is apply for a bucket that has holds or may get one.
local function escrow(c, l, s, o)
  local holds, op, leaky = use('holds'), c.op, l.a == LEAKY
  local v, at, next, held = tide(l, s)
  v, at, next, held = rise(l, s.h, v, at, next, held, c.now)
  local before, full = v, s.h and s.h.n > 0 and s[3] or nil
  if op == SETTLE or op == RENEW then
    o.ok = op == RENEW and c.holdfor == 0
    if not o.ok and holds.find(s.h, c.hold, at) then
      o.ok, s[1], s[2], full = true, v, at, nil
      claim(c, l, s, at, o)
      v, at, next, held = tide(l, s)
    end
  elseif op == REFUND and not leaky then
    v = higher(l.p, v, brim(l, held), c.cost)
  else
    v = call(c, l, v, at - c.now, o)
    if not o.ok and not o.never and not leaky then
      o.retry = reach(l, s.h, v, at, next, held, c.cost * l.p) - c.now
    end
    if o.ok and op == TAKE and c.holdfor > 0 and c.hold then
      s[1], s[2], full = v, at, nil
      holds.add(s, c, at, c.cost, holds.notag)
      v, at, next, held = tide(l, s)
    end
  end
  tell(l, v, o)
  if full and v == before then
    o.reset = max(full, at) - c.now
    return
  end
  full = reach(l, s.h, v, at, next, held, l.cap)
  o.reset = full - c.now
  if v ~= before then
    s[1], s[2] = v, at
    holds.drop_ended(s.h, at)
  end
  s[3] = full
end

function M.init(l, now) return { l.cap, now } end

function M.apply(c, l, s, o)
  if c.holdfor ~= 0 or s.h and s.h.n > 0 then return escrow(c, l, s, o) end
  local v, at, now = s[1], s[2], c.now
  if now > at then v, at = up(l.n, v, l.cap, now - at), now end
  local next = call(c, l, v, at - now, o)
  if next ~= v then s[1], s[2] = next, at end
end

function M.absent(l, s)
  local h = s.h
  if not h or h.n == 0 then return s[2] + eta(l.n, s[1], l.cap) end
  if not s[3] then
    local v, at, next, held = tide(l, s)
    s[3] = reach(l, h, v, at, next, held, l.cap)
  end
  return max(s[3], use('holds').last(h))
end

function M.seen(l, s) return s[2] end

-- carry rounds down by less than the new unit; only a debt is cut to the new capacity.
function M.carry(old, l, src, now)
  local v, at, next, held = tide(old, src)
  v, at = rise(old, src.h, v, at, next, held, now)
  local tokens = floor(v / old.p)
  if tokens >= l.burst then return { l.cap, at } end
  if tokens < -l.burst then return { -l.cap, at } end
  local arith = use('arith')
  if v >= 0 then return { (arith.mul_div(v, l.p, old.p)), at } end
  return { -arith.mul_div_ceil(-v, l.p, old.p), at }
end

-- settled brings the state to now, with what is held still held.
function M.settled(l, s, now)
  local v, at, next, held = tide(l, s)
  s[1], s[2] = rise(l, s.h, v, at, next, held, now)
end

-- below lowers the level to what the holds leave room for, less that many tokens, but
-- not below the deepest debt.
function M.below(l, s, tokens)
  local _, _, _, held = tide(l, s)
  s[1], s[3] = min(s[1], max(-l.cap, (brim(l, held) - tokens) * l.p)), nil
end

-- charge takes tokens out of the state as it is, below 0 gives them back.
function M.charge(l, s, tokens)
  s[3] = nil
  if tokens > 0 then
    s[1] = max(-l.cap, lower(l.p, s[1], tokens))
  elseif tokens < 0 then
    s[1] = higher(l.p, s[1], l.burst, -tokens)
  end
end

function M.tag() return -HUGE end

function M.credit() end

return M
