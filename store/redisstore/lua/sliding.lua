-- A sliding window of k slices: {number of the newest slot, k+1 counters}. Slot i, an
-- instant divided by the width of a slice, is counter i mod k+1. Every event of the
-- last k slices' width lies in one of them, so that their sum never falls short of the
-- true count. A reservation's tag is the number of its slot.
--
-- The first functions take a state whose newest slot is word f: a ban has its own
-- words before.
local arith = use('arith')
local used, MOST = arith.used, arith.most
local M = {}

-- sum returns the newest slot as seen at now and the sum of those that count then.
local function sum(s, f, k, slice, now)
  local last, n = s[f], 0
  local newest = max(last, floor(now / slice))
  for i = newest - k, last do n = n + s[f + 1 + i % (k + 1)] end
  return newest, n
end
M.sum = sum

-- advance forgets the slots that no longer count when newest is current.
local function advance(s, f, k, newest)
  for i = max(s[f], newest - k - 1) + 1, newest do s[f + 1 + i % (k + 1)] = 0 end
  s[f] = newest
end
M.advance = advance

-- ends returns the instant from which no slot counts.
local function ends(s, f, k, slice)
  local newest = s[f]
  for i = newest, newest - k, -1 do
    if s[f + 1 + i % (k + 1)] > 0 then return (i + k + 1) * slice end
  end
  return newest * slice
end
M.ends = ends

-- retry returns the instant at which slots holding excess have stopped to count.
local function retry(s, k, slice, newest, excess)
  local i = newest - k - 1
  repeat
    i = i + 1
    excess = excess - s[2 + i % (k + 1)]
  until excess <= 0
  return (i + k + 1) * slice
end

-- debit charges cost without asking and returns what that came to.
local function debit(s, k, newest, total, cost)
  advance(s, 1, k, newest)
  cost = min(cost, MOST - total)
  local i = 2 + newest % (k + 1)
  s[i] = s[i] + cost
  return cost
end

-- take_back takes up to cost out of slot i and returns what it took. What is reserved
-- there stays.
local function take_back(s, i, k, cost)
  local at, held = 2 + i % (k + 1), 0
  if s.h then held = use('holds').by(s.h, i) end
  local n = min(cost, s[at] - held)
  s[at] = s[at] - n
  return n
end

-- refund takes cost out of the oldest slots first, those that stop to count soonest,
-- so that the sum never falls below the truth. It returns what it took.
local function refund(s, now, k, newest, cost)
  if s.h then use('holds').drop_ended(s.h, now) end
  local left = cost
  for i = newest - k, newest do
    if left == 0 then break end
    left = left - take_back(s, i, k, left)
  end
  return cost - left
end

-- ask does Take and Peek and returns the sum after it.
local function ask(c, l, s, newest, total, o)
  local cost, k = c.cost, l.k
  if cost > l.count then
    o.ok, o.never = false, true
  elseif cost > 0 and cost > l.count - total then
    o.ok, o.retry = false, retry(s, k, l.slice, newest, cost - (l.count - total)) - c.now
  elseif c.op == TAKE then
    if cost > 0 then
      advance(s, 1, k, newest)
      local i = 2 + newest % (k + 1)
      s[i] = s[i] + cost
      total = total + cost
    end
    if c.holdfor > 0 and c.hold then use('holds').add(s, c, max(c.now, newest * l.slice), cost, newest) end
  end
  return total
end

-- settle does Settle and Renew and returns the sum after it.
local function settle(c, l, s, newest, total, o)
  local k = l.k
  local change, tag = use('holds').apply(s, c, max(c.now, newest * l.slice), o)
  if change > 0 then
    total = total + debit(s, k, newest, total, change)
  elseif change < 0 and tag >= newest - k then
    advance(s, 1, k, newest)
    local i = 2 + tag % (k + 1)
    change = max(change, -s[i])
    s[i] = s[i] + change
    total = total + change
  end
  return total
end

function M.init(l, now)
  local s = { floor(now / l.slice) }
  for i = 2, l.k + 2 do s[i] = 0 end
  return s
end

function M.apply(c, l, s, o)
  local k, slice, now, op = l.k, l.slice, c.now, c.op
  local newest, total = sum(s, 1, k, slice, now)
  if op == TAKE or op == PEEK then
    total = ask(c, l, s, newest, total, o)
  elseif op == REFUND then
    advance(s, 1, k, newest)
    total = total - refund(s, max(now, newest * slice), k, newest, c.cost)
  elseif op == DEBIT then
    total = total + debit(s, k, newest, total, c.cost)
  elseif op == SETTLE or op == RENEW then
    total = settle(c, l, s, newest, total, o)
  end
  used(o, total, l.count)
  if total > 0 then o.reset = ends(s, 1, k, slice) - now end
end

function M.absent(l, s)
  local at = ends(s, 1, l.k, l.slice)
  if not s.h then return at end
  return max(at, use('holds').last(s.h))
end

function M.seen(l, s) return s[1] * l.slice end

-- carry keeps the slots, which are the same under both.
function M.carry(old, l, src, now)
  local s = {}
  for i = 1, l.k + 2 do s[i] = src[i] end
  return s
end

function M.tag(l, s, at)
  local i = floor(at / l.slice)
  if i < s[1] - l.k or i > s[1] then return -HUGE end
  return i
end

function M.credit(l, s, now, tag, n)
  local newest = max(s[1], floor(now / l.slice))
  if tag < newest - l.k then return end
  advance(s, 1, l.k, newest)
  if s.h then use('holds').drop_ended(s.h, max(now, newest * l.slice)) end
  take_back(s, tag, l.k, n)
end

return M
