-- The classic sliding window: {number of the current window, what the one before it
-- holds, what it holds itself}. A reservation's tag is the number of its window: only
-- the current one takes credit. The last period is estimated as the current window
-- and the share of the one before that the period still covers:
-- before*(w-elapsed)/w + current.
local arith, fixed = use('arith'), use('fixed')
local covers, mul_div, mul_div_ceil, used, MOST = arith.covers, arith.mul_div, arith.mul_div_ceil, arith.used, arith.most
local M = {}

-- roll returns the state as it stands at now.
local function roll(l, s, now)
  local index, before, current = s[1], s[2], s[3]
  local at = floor(now / l.w)
  if at <= index then return index, before, current end
  if at > index + 1 then current = 0 end
  return at, current, 0
end

-- ask does Take and Peek of cost, elapsed into the window, on a clock that is skew
-- behind. It returns what the window holds after it.
local function ask(c, l, before, current, elapsed, skew, o)
  local cost, w = c.cost, l.w
  if cost > l.count then
    o.ok, o.never = false, true
    return current
  elseif cost == 0 then
    return current
  end
  local room = l.count - current - cost
  if room >= 0 and covers(room, w, before, w - elapsed) then
    if c.op == TAKE then return current + cost end
    return current
  end
  o.ok = false
  if room >= 0 then
    o.retry = w - mul_div(room, w, before) - elapsed + skew
    return current
  end
  -- Nothing passes in this window: the next one has the current one before it.
  local wait, rest = w - elapsed, l.count - cost
  if rest < current then wait = wait + w - mul_div(rest, w, current) end
  o.retry = wait + skew
  return current
end

function M.init(l, now) return { floor(now / l.w), 0, 0 } end

function M.apply(c, l, s, o)
  local w, op, now = l.w, c.op, c.now
  local index, before, current = roll(l, s, now)
  local elapsed, skew = now - index * w, 0
  if elapsed < 0 then elapsed, skew = 0, -elapsed end
  local seen = max(now, index * w)
  if op == TAKE or op == PEEK then
    current = ask(c, l, before, current, elapsed, skew, o)
  elseif op == REFUND then
    current = fixed.back(s, seen, index, current, c.cost)
  elseif op == DEBIT then
    current = min(MOST, current + c.cost)
  elseif op == SETTLE or op == RENEW then
    current = fixed.settle(c, s, seen, index, current, o)
  end
  used(o, min(MOST, current + mul_div_ceil(before, w - elapsed, w)), l.count)
  if current > 0 then
    o.reset = (index + 2) * w - now
  elseif before > 0 then
    o.reset = (index + 1) * w - now
  end
  if op == PEEK or not o.ok then return end
  s[1], s[2], s[3] = index, before, current
  if op == TAKE and c.holdfor > 0 and c.hold then use('holds').add(s, c, seen, c.cost, index) end
end

function M.absent(l, s)
  local windows = 0
  if s[3] > 0 then
    windows = 2
  elseif s[2] > 0 then
    windows = 1
  end
  local at = (s[1] + windows) * l.w
  if not s.h then return at end
  return max(at, use('holds').last(s.h))
end

function M.seen(l, s) return s[1] * l.w end

function M.carry(old, l, src, now) return { src[1], src[2], src[3] } end

function M.tag(l, s, at)
  if floor(at / l.w) == s[1] then return s[1] end
  return -HUGE
end

function M.credit(l, s, now, tag, n)
  if tag == s[1] and now < (tag + 1) * l.w then
    s[3] = fixed.back(s, max(now, tag * l.w), tag, s[3], n)
  end
end

return M
