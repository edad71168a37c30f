-- An idempotency limit: {the requests that are remembered}, in no order, packed into
-- one string, 40 bytes each: id (16), print, hold, and the instant (exclusive) until
-- which it is remembered.
local used = use('arith').used
local WIDTH = 40
local NONE = ('\0'):rep(8) -- the hold of a request that had none
local pack, unpack, sub, search = struct.pack, struct.unpack, string.sub, string.find
local M = {}

-- till returns until when the request behind at bytes is remembered.
local function till(b, at) return (unpack('<d', b, at + 33)) end

-- live returns how many requests are remembered at now, and when the last of them is
-- forgotten.
local function live(b, now)
  local n, last = 0, -HUGE
  for at = 0, #b - WIDTH, WIDTH do
    local t = till(b, at)
    if t > now then n, last = n + 1, max(last, t) end
  end
  return n, last
end

-- place returns the bytes before the request of the id that is remembered at now, or
-- nil.
local function place(b, id, now)
  local i = search(b, id, 1, true)
  while i and not (i % WIDTH == 1 and till(b, i - 1) > now) do i = search(b, id, i + 1, true) end
  return i and i - 1
end

-- recall looks a request up. It returns the print and the hold, or false for none, that
-- it was remembered with; nil if it is not remembered.
function M.recall(s, id, now)
  local b = s[1]
  local at = place(b, id, now)
  if not at then return nil end
  local hold = sub(b, at + 25, at + 32)
  return sub(b, at + 17, at + 24), hold ~= NONE and hold
end

-- remember keeps a request. It reports false if as many as the limit allows are
-- remembered: nothing is forgotten before its time.
function M.remember(l, s, now, id, print, hold)
  local b, kept, n = s[1], {}, 0
  for at = 0, #b - WIDTH, WIDTH do
    if till(b, at) > now then
      n = n + 1
      kept[n] = sub(b, at + 1, at + WIDTH)
    end
  end
  local room = n < l.count
  if room then kept[n + 1] = id .. print .. (hold or NONE) .. pack('<d', now + l.ttl) end
  s[1] = table.concat(kept)
  return room
end

function M.init(l, now) return { '' } end

function M.apply(c, l, s, o)
  local n, last = live(s[1], c.now)
  used(o, n, l.count)
  if n > 0 then o.reset = last - c.now end
end

function M.absent(l, s)
  local _, last = live(s[1], -HUGE)
  return last
end

function M.seen(l, s) return -HUGE end

function M.carry(old, l, src, now) return { src[1] } end

function M.pack(s) return '', s[1], '' end

function M.unpack(b, at) return { sub(b, at) } end

return M
