-- A ban: {until when it holds, the slots of a sliding window of denials}.
local slots = use('sliding')
local used = use('arith').used
local SLICES = 6 -- headgate.BanSlices
local M = {}

local function absent(l, s) return max(s[1], slots.ends(s, 2, SLICES, l.slice)) end
M.absent = absent

function M.init(l, now) return { 0, floor(now / l.slice), 0, 0, 0, 0, 0, 0, 0 } end

function M.apply(c, l, s, o)
  local now, till = c.now, s[1]
  local _, n = slots.sum(s, 2, SLICES, l.slice, now)
  used(o, min(n, l.count), l.count)
  if now < till then
    o.used, o.remaining = l.count, 0
    if c.op == TAKE or c.op == PEEK then o.ok, o.retry = false, till - now end
  end
  o.reset = absent(l, s) - now
end

-- deny counts one denial at now, and starts the ban when there are enough of them.
-- While a ban holds, nothing counts: it would never end.
function M.deny(l, s, now)
  if now < s[1] then return end
  local newest, n = slots.sum(s, 2, SLICES, l.slice, now)
  if n + 1 >= l.count then
    s[1], s[2] = now + l.ttl, newest
    for i = 3, 3 + SLICES do s[i] = 0 end
    return
  end
  slots.advance(s, 2, SLICES, newest)
  local i = 3 + newest % (SLICES + 1)
  s[i] = s[i] + 1
end

function M.seen(l, s) return s[2] * l.slice end

function M.carry(old, l, src, now)
  local s = M.init(l, now)
  s[1] = src[1]
  local _, n = slots.sum(src, 2, SLICES, old.slice, now)
  local i = 3 + s[2] % (SLICES + 1)
  s[i] = min(n, l.count - 1)
  return s
end

return M
