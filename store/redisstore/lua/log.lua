-- A sliding log: {latest instant seen, sum of the weights} and entries, instant and
-- weight, oldest first, where charges of one instant share an entry. A reservation's tag
-- is the instant of its entry.
--
-- The entries are packed, width bytes each, into two strings, because Lua reads every
-- byte of a string that it makes: b, of which the first from bytes are no entries or
-- have gone, and tail, which goes on where b ends. An entry is named by the bytes before
-- it in both.
local used = use('arith').used
local MOST = use('arith').most
local NARROW, WIDE = 9, 14 -- by the weights: up to 65535, or any
local FORMS = { [NARROW] = '<i7I2', [WIDE] = '<i7I7' }
local ROOM = 10001 -- headgate.MaxLog+1 entries
local HEAD, HEAD_SIZE = '<ddB', 17
local pack, unpack, sub = struct.pack, struct.unpack, string.sub
local M = {}

local function new(seen, sum, width, b, from) return { seen, sum, width = width, b = b, from = from, tail = '' } end

-- entry returns instant and weight of the entry at.
local function entry(s, at)
  local b = s.b
  if at < #b then return unpack(FORMS[s.width], b, at + 1) end
  return unpack(FORMS[s.width], s.tail, at - #b + 1)
end

-- ends returns where the next entry will be.
local function ends(s) return #s.b + #s.tail end

-- expired returns the first entry that has not left the window that ends at now, and
-- the weight of those before. An entry at t counts until t+window, exclusive.
local function expired(l, s, now)
  local edge, at, weight, last = now - l.w, s.from, 0, ends(s)
  if at < last and entry(s, last - s.width) <= edge then return last, s[2] end
  while at < last do
    local t, n = entry(s, at)
    if t > edge then break end
    at, weight = at + s.width, weight + n
  end
  return at, weight
end

-- forget drops the entries before at, which have left by now. It notes the instant: a
-- clock that goes back must not charge to an entry that is gone, or a reservation would
-- be credited what another has used.
local function forget(s, now, at, weight)
  s[1], s[2] = now, s[2] - weight
  if at < #s.b then
    s.from = at
  else
    s.b, s.from, s.tail = sub(s.tail, at - #s.b + 1), 0, ''
    if s.b == '' then s.width = NARROW end
  end
end

-- front returns what of b are entries.
local function front(s)
  if s.from == 0 then return s.b end
  return sub(s.b, s.from + 1)
end

-- flat moves all entries to b, and returns it.
local function flat(s)
  s.b, s.from, s.tail = front(s) .. s.tail, 0, ''
  return s.b
end

local function widen(s)
  local b, wide = flat(s), {}
  for at = 0, #b - NARROW, NARROW do wide[#wide + 1] = pack(FORMS[WIDE], unpack(FORMS[NARROW], b, at + 1)) end
  s.b, s.width = table.concat(wide), WIDE
end

-- append adds weight at now, which was noted. Where debits have made more entries than
-- takes can, the newest entry moves to now: it then counts longer, never less.
local function append(s, now, weight)
  s[2] = s[2] + weight
  local last = ends(s) - s.width
  if last >= s.from then
    local t, n = entry(s, last)
    if t == now or last - s.from >= (ROOM - 1) * s.width then
      weight = weight + n
      if #s.tail > 0 then
        s.tail = sub(s.tail, 1, -s.width - 1)
      else
        s.b = sub(s.b, 1, last)
      end
    end
  end
  if weight > 65535 and s.width == NARROW then widen(s) end
  s.tail = s.tail .. pack(FORMS[s.width], now, weight)
end

-- debit charges cost without asking and returns what that came to.
local function debit(s, at, weight, now, cost)
  cost = min(cost, MOST - (s[2] - weight))
  forget(s, now, at, weight)
  if cost > 0 then append(s, now, cost) end
  return cost
end

-- retry returns the instant at which entries of weight excess, from that at on, have
-- left.
local function retry(l, s, at, excess)
  local t, n
  repeat
    t, n = entry(s, at)
    at, excess = at + s.width, excess - n
  until excess <= 0
  return t + l.w
end

-- place returns the entry of the instant, or nil.
local function place(s, instant)
  local lo, hi, width = 0, (ends(s) - s.from) / s.width, s.width
  local most = hi
  while lo < hi do
    local mid = floor((lo + hi) / 2)
    if entry(s, s.from + mid * width) < instant then lo = mid + 1 else hi = mid end
  end
  local at = s.from + lo * width
  if lo < most and entry(s, at) == instant then return at end
  return nil
end

-- give_back takes up to cost out of the entry of the instant, if it is there, but
-- leaves what is held of it. It returns what it took.
local function give_back(s, instant, cost, held)
  local b = flat(s)
  local at = place(s, instant)
  if not at then return 0 end
  local _, weight = entry(s, at)
  cost = min(cost, weight - held)
  local rest = ''
  if weight > cost then rest = pack(FORMS[s.width], instant, weight - cost) end
  s[2], s.b = s[2] - cost, sub(b, 1, at) .. rest .. sub(b, at + s.width + 1)
  return cost
end

-- tagged returns the amounts that are held, by their tags.
local function tagged(s, now)
  local amounts = {}
  if not s.h then return amounts end
  local holds = use('holds')
  holds.drop_ended(s.h, now)
  for i = 1, s.h.n do
    local _, _, amount, tag = holds.at(s.h, i)
    amounts[tag] = (amounts[tag] or 0) + amount
  end
  return amounts
end

-- refund takes cost out of the oldest entries first, those that leave soonest, so that
-- the sum never falls below the truth. What is reserved stays. It returns what it took.
local function refund(s, now, cost)
  local b, held, left, at, kept = flat(s), tagged(s, now), cost, 0, {}
  while left > 0 and at < #b do
    local t, weight = entry(s, at)
    local n = min(left, weight - (held[t] or 0))
    if weight > n then kept[#kept + 1] = pack(FORMS[s.width], t, weight - n) end
    left, at = left - n, at + s.width
  end
  s[2], s.b = s[2] - (cost - left), table.concat(kept) .. sub(b, at + 1)
  return cost - left
end

-- ask does Take and Peek of an allowance of n, and returns what that came to.
local function ask(c, l, s, at, weight, seen, o)
  local cost, room = c.cost, l.count - (s[2] - weight)
  if cost > l.count then
    o.ok, o.never = false, true
    return 0
  elseif cost > 0 and cost > room then
    o.ok, o.retry = false, retry(l, s, at, cost - room) - c.now
    return 0
  elseif c.op == PEEK then
    return 0
  end
  if cost > 0 then
    forget(s, seen, at, weight)
    append(s, seen, cost)
  end
  if c.holdfor > 0 and c.hold then use('holds').add(s, c, seen, cost, seen) end
  return cost
end

local function absent(l, s)
  local last = ends(s) - s.width
  if last < s.from then return s[1] end
  return entry(s, last) + l.w
end

function M.init(l, now) return new(now, 0, NARROW, '', 0) end

function M.apply(c, l, s, o)
  local op, cost = c.op, c.cost
  local seen = max(c.now, s[1])
  local at, weight = expired(l, s, seen)
  local sum = s[2] - weight
  if op == TAKE or op == PEEK then
    sum = sum + ask(c, l, s, at, weight, seen, o)
  elseif op == REFUND then
    forget(s, seen, at, weight)
    sum = sum - refund(s, seen, cost)
  elseif op == DEBIT then
    sum = sum + debit(s, at, weight, seen, cost)
  elseif op == SETTLE or op == RENEW then
    local change, tag = use('holds').apply(s, c, seen, o)
    if change > 0 then
      sum = sum + debit(s, at, weight, seen, change)
    elseif change < 0 then
      forget(s, seen, at, weight)
      sum = sum - give_back(s, tag, -change, 0)
    end
  end
  used(o, sum, l.count)
  if sum > 0 then o.reset = absent(l, s) - c.now end
end

function M.absent(l, s)
  local at = absent(l, s)
  if not s.h then return at end
  return max(at, use('holds').last(s.h))
end

function M.seen(l, s) return s[1] end

-- carry keeps the entries, but for those that have left the old window: they must not
-- come back in a longer one.
function M.carry(old, l, src, now)
  local s = new(src[1], src[2], src.width, src.b, src.from)
  s.tail = src.tail
  forget(s, now, expired(old, s, now))
  return s
end

function M.tag(l, s, at)
  if place(s, at) then return at end
  return -HUGE
end

function M.credit(l, s, now, tag, n)
  now = max(now, s[1])
  forget(s, now, expired(l, s, now))
  give_back(s, tag, n, tagged(s, now)[tag] or 0)
end

function M.pack(s) return pack(HEAD, s[1], s[2], s.width), front(s), s.tail end

function M.unpack(b, at)
  local seen, sum, width = unpack(HEAD, b, at)
  return new(seen, sum, width, b, at - 1 + HEAD_SIZE)
end

return M
