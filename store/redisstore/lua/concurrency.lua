-- A concurrency limit: {sum of the amounts, slots}. The slots are packed into one
-- string, 17 bytes each: id, instant (exclusive) until which it is held, and amount,
-- ordered by that instant. So ten thousand of them cost copies of a string.
local used = use('arith').used
local WIDTH, FORM, REST = 17, '<c8i7I2', '<i7I2'
local NONE = ('\0'):rep(8) -- the id of a slot that was taken without a hold
local pack, unpack, sub, search = struct.pack, struct.unpack, string.sub, string.find
local M = {}

-- slot returns until when the slot behind at bytes is held, and its amount.
local function slot(b, at) return unpack(REST, b, at + 9) end

-- last returns the instant at which all have ended.
local function last(b)
  if #b == 0 then return -HUGE end
  return (slot(b, #b - WIDTH))
end

-- ended returns the bytes of the slots that have ended by now, and their amount.
local function ended(s, now)
  local b, at, amount = s[2], 0, 0
  if last(b) <= now then return #b, s[1] end
  while true do
    local till, n = slot(b, at)
    if till > now then return at, amount end
    at, amount = at + WIDTH, amount + n
  end
end

-- place returns the bytes before the first slot of the id behind at bytes, or nil.
local function place(b, id, at)
  local i = search(b, id, at + 1, true)
  while i and i % WIDTH ~= 1 do i = search(b, id, i + 1, true) end
  return i and i - 1
end

-- remove removes every slot of the id and returns their amount.
local function remove(s, id)
  local b, amount = s[2], 0
  local at = place(b, id, 0)
  while at do
    local _, n = slot(b, at)
    amount, b = amount + n, sub(b, 1, at) .. sub(b, at + WIDTH + 1)
    at = place(b, id, at)
  end
  s[1], s[2] = s[1] - amount, b
  return amount
end

-- insert adds a slot behind all that end no later: nearly always at the end.
local function insert(s, id, till, amount)
  local b = s[2]
  local lo, hi = 0, #b / WIDTH
  if last(b) <= till then lo = hi end
  while lo < hi do
    local mid = floor((lo + hi) / 2)
    if slot(b, mid * WIDTH) <= till then lo = mid + 1 else hi = mid end
  end
  lo = lo * WIDTH
  local x = pack(FORM, id, till, amount)
  if lo == #b then b = b .. x else b = sub(b, 1, lo) .. x .. sub(b, lo + 1) end
  s[1], s[2] = s[1] + amount, b
end

-- drop forgets the slots of so many bytes, which have ended. The rest sums up to sum.
local function drop(s, gone, sum)
  if gone > 0 then s[1], s[2] = sum, sub(s[2], gone + 1) end
end

-- free returns the instant at which slots of an amount of excess, from that behind at
-- bytes on, have ended.
local function free(b, at, excess)
  local till, n
  repeat
    till, n = slot(b, at)
    at, excess = at + WIDTH, excess - n
  until excess <= 0
  return till
end

local function ask(c, l, s, gone, sum, till, o)
  local cost, room = c.cost, l.count - sum
  if cost > l.count then
    o.ok, o.never = false, true
  elseif cost > 0 and cost > room then
    o.ok, o.retry = false, free(s[2], gone, cost - room) - c.now
  elseif cost > 0 and c.op == TAKE then
    drop(s, gone, sum)
    insert(s, c.hold or NONE, till, cost)
    return s[1]
  end
  return sum
end

function M.init(l, now) return { 0, '' } end

function M.apply(c, l, s, o)
  local op, now, id = c.op, c.now, c.hold
  local gone, amount = ended(s, now)
  local sum, till = s[1] - amount, now + (c.holdfor > 0 and c.holdfor or l.ttl)
  if op == TAKE or op == PEEK then
    sum = ask(c, l, s, gone, sum, till, o)
  elseif (op == SETTLE or op == RENEW) and not (id and place(s[2], id, gone)) then
    o.ok = false
  elseif op == RELEASE or op == SETTLE or op == RENEW then
    drop(s, gone, sum)
    local n = id and remove(s, id) or 0
    if op == RENEW then insert(s, id, till, n) end
    sum = s[1]
  end
  used(o, sum, l.count)
  if sum > 0 then o.reset = last(s[2]) - now end
end

function M.absent(l, s) return last(s[2]) end

function M.seen(l, s) return -HUGE end

function M.carry(old, l, src, now) return { src[1], src[2] } end

function M.pack(s) return pack('<I2', s[1]) .. s[2] end

function M.unpack(b) return { (unpack('<I2', b)), sub(b, 3) } end

return M
