-- A quota: {label, start and end of its calendar period, what was used of it, what the
-- period before left over, end of the period after it}. A reservation's tag is the end
-- of its period.
--
-- Lua knows no time zones: l.cal has a few periods that follow each other, each
-- {label, start, end}. The last word says what they do not: whether a period that
-- comes later follows directly, and until when what is left over counts. Periods tile
-- time, so that is all there is to know of numbers that are not those of the call.
local arith, fixed = use('arith'), use('fixed')
local used, MOST = arith.used, arith.most
local M = {}

-- period returns the place in the calendar of the period that holds the instant, or nil
-- if that or the next one is not there.
local function period(l, now)
  local cal = l.cal
  for i = 1, #cal - 1 do
    if cal[i][2] <= now and now < cal[i][3] then return i end
  end
  return nil
end

-- covers reports whether the calendar has what is needed at the instant.
function M.covers(l, now) return period(l, now) ~= nil end

-- enter returns the state of a period that was not used.
local function enter(l, now, carry)
  local i = period(l, now)
  local p = l.cal[i]
  return p[1], p[2], p[3], 0, carry, l.cal[i + 1][3]
end

-- left returns what a period leaves to the next.
local function left(l, n, carry) return min(l.roll, max(0, l.count + carry - n)) end

-- rolled returns what the period before has left at now, which is behind the state's.
local function rolled(l, s, now)
  if l.roll > 0 and s[4] > 0 and now < s[6] then return left(l, s[4], s[5]) end
  return 0
end

-- refuse says whether a refused cost passes in the next period, whose limit depends on
-- what this one leaves to it.
local function refuse(l, n, carry, cost, wait, o)
  local limit = l.count
  if n > 0 then limit = limit + left(l, n, carry) end
  o.never, o.retry = cost > limit, 0
  if not o.never then o.retry = wait end
end

function M.init(l, now) return { enter(l, now, 0) } end

function M.apply(c, l, s, o)
  local op, now = c.op, c.now
  local label, start, till, n, carry, after = s[1], s[2], s[3], s[4], s[5], s[6]
  if now >= till then label, start, till, n, carry, after = enter(l, now, rolled(l, s, now)) end
  local limit, seen, before = l.count + carry, max(now, start), n
  if op == SETTLE or op == RENEW then
    n = fixed.settle(c, s, seen, till, n, o)
  elseif l.soft and op == TAKE then
    n = min(MOST, n + c.cost)
  elseif not l.soft or op ~= PEEK then
    n = fixed.step(c, s, seen, till, n, limit, o)
    if not o.ok then refuse(l, n, carry, c.cost, till - now, o) end
  end
  used(o, n, limit)
  o.reset, o.resets = till - now, till
  if op == PEEK or not o.ok then return end
  s[1], s[2], s[3], s[4], s[5], s[6] = label, start, till, n, carry, after
  if op == TAKE and c.holdfor > 0 and c.hold then use('holds').add(s, c, seen, n - before, till) end
end

function M.absent(l, s)
  local at = s[3]
  if l.roll > 0 and s[4] > 0 and left(l, s[4], s[5]) > 0 then at = s[6] end
  if not s.h then return at end
  return max(at, use('holds').last(s.h))
end

function M.seen(l, s) return s[2] end

function M.carry(old, l, src, now)
  local s = M.init(l, now)
  if now < src[3] then
    s[4], s[5] = src[4], min(l.roll, src[5])
  else
    s[5] = min(l.roll, rolled(old, src, now))
  end
  return s
end

function M.tag(l, s, at)
  if s[2] <= at and at < s[3] then return s[3] end
  return -HUGE
end

function M.credit(l, s, now, tag, n)
  if tag == s[3] and now < tag then s[4] = fixed.back(s, max(now, s[2]), tag, s[4], n) end
end

return M
