-- Fixed window: {end of the window, what it holds}. A reservation's tag is the end of
-- its window.
local arith = use('arith')
local used, MOST = arith.used, arith.most
local M = {}

local function window_end(now, width) return (floor(now / width) + 1) * width end

-- back gives up to cost back to a counter of n, but not what is reserved under the
-- tag, and returns the counter after it. What has ended by now is dropped first: a
-- clock that goes back must not bring a hold back on what was given back.
function M.back(s, now, tag, n, cost)
  local held = 0
  if s.h then
    local holds = use('holds')
    holds.drop_ended(s.h, now)
    held = holds.by(s.h, tag)
  end
  return n - min(cost, n - held)
end

-- step does a call at now, but for Settle and Renew, on a counter of limit that starts
-- anew at till, and returns the counter after it.
function M.step(c, s, now, till, n, limit, o)
  local op, cost = c.op, c.cost
  if op == TAKE or op == PEEK then
    if cost > limit then
      o.ok, o.never = false, true
    elseif cost > 0 and cost > limit - n then
      o.ok, o.retry = false, till - c.now
    elseif op == TAKE then
      n = n + cost
    end
  elseif op == REFUND then
    n = M.back(s, now, till, n, cost)
  elseif op == DEBIT then
    n = min(MOST, n + cost)
  end
  return n
end

-- settle does Settle and Renew at now on a counter that starts anew at till, the tag
-- of what was reserved from it. It returns the counter after it.
function M.settle(c, s, now, till, n, o)
  local change, tag = use('holds').apply(s, c, now, o)
  if change > 0 then return min(MOST, n + change) end
  if tag == till then return max(0, n + change) end
  return n
end

function M.init(l, now) return { window_end(now, l.w), 0 } end

function M.apply(c, l, s, o)
  local op, till, n = c.op, s[1], s[2]
  if c.now >= till then till, n = window_end(c.now, l.w), 0 end
  local now = max(c.now, till - l.w)
  if op == SETTLE or op == RENEW then
    n = M.settle(c, s, now, till, n, o)
  else
    n = M.step(c, s, now, till, n, l.count, o)
  end
  used(o, n, l.count)
  o.reset = till - c.now
  if op == PEEK or not o.ok then return end
  s[1], s[2] = till, n
  if op == TAKE and c.holdfor > 0 and c.hold then use('holds').add(s, c, now, c.cost, till) end
end

function M.absent(l, s)
  if not s.h then return s[1] end
  return max(s[1], use('holds').last(s.h))
end

function M.seen(l, s) return s[1] - l.w end

function M.carry(old, l, src, now)
  local s = M.init(l, now)
  if now < src[1] then s[2] = src[2] end
  return s
end

function M.tag(l, s, at)
  if window_end(at, l.w) == s[1] then return s[1] end
  return -HUGE
end

function M.credit(l, s, now, tag, n)
  if tag == s[1] and now < tag then s[2] = M.back(s, now, tag, s[2], n) end
end

return M
