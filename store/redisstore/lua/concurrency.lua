-- A concurrency limit: {sum of the amounts} and slots: id, instant (exclusive) until
-- which it is held, and amount, ordered by that instant.
--
-- The slots are packed, WIDTH bytes each, into two strings, because Lua reads every
-- byte of a string that it makes: b, of which the first from bytes are no slots or have
-- ended, and tail, which goes on where b ends. A slot is named by the bytes before it in
-- both.
local used = use('arith').used
local WIDTH, FORM, REST = 17, '<c8i7I2', '<i7I2'
local HEAD, HEAD_SIZE = '<I2', 2
local NONE = ('\0'):rep(8) -- the id of a slot that was taken without a hold
local pack, unpack, sub, search = struct.pack, struct.unpack, string.sub, string.find
local M = {}

-- slot returns until when the slot at is held, and its amount.
local function slot(s, at)
  local b = s.b
  if at < #b then return unpack(REST, b, at + 9) end
  return unpack(REST, s.tail, at - #b + 9)
end

-- ends returns where the next slot will be.
local function ends(s) return #s.b + #s.tail end

-- last returns the instant at which all have ended.
local function last(s)
  local at = ends(s) - WIDTH
  if at < s.from then return -HUGE end
  return (slot(s, at))
end

-- ended returns the first slot that has not ended by now, and the amount of those
-- before.
local function ended(s, now)
  if last(s) <= now then return ends(s), s[1] end
  local at, amount = s.from, 0
  while true do
    local till, n = slot(s, at)
    if till > now then return at, amount end
    at, amount = at + WIDTH, amount + n
  end
end

-- drop forgets the slots before at, which amount to that.
local function drop(s, at, amount)
  s[1] = s[1] - amount
  if at < #s.b then
    s.from = at
  else
    s.b, s.from, s.tail = sub(s.tail, at - #s.b + 1), 0, ''
  end
end

-- front returns what of b are slots.
local function front(s)
  if s.from == 0 then return s.b end
  return sub(s.b, s.from + 1)
end

-- flat moves all slots to b.
local function flat(s)
  if s.tail ~= '' then s.b, s.from, s.tail = front(s) .. s.tail, 0, '' end
end

-- place returns the first slot of the id from at on, or nil. All slots are in b.
local function place(s, id, at)
  local i = search(s.b, id, at + 1, true)
  while i and (i - s.from) % WIDTH ~= 1 do i = search(s.b, id, i + 1, true) end
  return i and i - 1
end

-- remove removes every slot of the id and returns their amount. All slots are in b.
local function remove(s, id)
  local amount, at = 0, place(s, id, s.from)
  while at do
    local _, n = slot(s, at)
    local more = place(s, id, at + WIDTH)
    amount = amount + n
    s.b, s.from, s.tail = sub(s.b, s.from + 1, at), 0, sub(s.b, at + WIDTH + 1)
    if more then flat(s) end
    at = more and place(s, id, 0)
  end
  s[1] = s[1] - amount
  return amount
end

-- insert adds a slot behind all that end no later: nearly always at the end.
local function insert(s, id, till, amount)
  local x = pack(FORM, id, till, amount)
  s[1] = s[1] + amount
  if last(s) <= till then
    s.tail = s.tail .. x
    return
  end
  flat(s)
  local lo, hi = 0, (#s.b - s.from) / WIDTH
  while lo < hi do
    local mid = floor((lo + hi) / 2)
    if slot(s, s.from + mid * WIDTH) <= till then lo = mid + 1 else hi = mid end
  end
  local at = s.from + lo * WIDTH
  s.b, s.from, s.tail = sub(s.b, s.from + 1, at), 0, x .. sub(s.b, at + 1)
end

-- free returns the instant at which slots of an amount of excess, from that at on, have
-- ended.
local function free(s, at, excess)
  local till, n
  repeat
    till, n = slot(s, at)
    at, excess = at + WIDTH, excess - n
  until excess <= 0
  return till
end

-- ask does Take and Peek of slots that hold until then. The slots before at, which
-- amount to that, have ended. It returns the sum after it.
local function ask(c, l, s, at, amount, till, o)
  local cost, sum = c.cost, s[1] - amount
  local room = l.count - sum
  if cost > l.count then
    o.ok, o.never = false, true
  elseif cost > 0 and cost > room then
    o.ok, o.retry = false, free(s, at, cost - room) - c.now
  elseif cost > 0 and c.op == TAKE then
    drop(s, at, amount)
    insert(s, c.hold or NONE, till, cost)
    return s[1]
  end
  return sum
end

-- claim does Release, Settle and Renew likewise. All slots are in b.
local function claim(c, s, at, amount, till, o)
  local op, id = c.op, c.hold
  if op ~= RELEASE and not (id and place(s, id, at)) then
    o.ok = false
    return s[1] - amount
  end
  drop(s, at, amount)
  local n = id and remove(s, id) or 0
  if op == RENEW then insert(s, id, till, n) end
  return s[1]
end

function M.init(l, now) return { 0, b = '', from = 0, tail = '' } end

function M.apply(c, l, s, o)
  local op, now, sum = c.op, c.now, nil
  local till = now + (c.holdfor > 0 and c.holdfor or l.ttl)
  if op == RELEASE or op == SETTLE or op == RENEW then
    flat(s)
    local at, amount = ended(s, now)
    sum = claim(c, s, at, amount, till, o)
  else
    local at, amount = ended(s, now)
    sum = s[1] - amount
    if op == TAKE or op == PEEK then sum = ask(c, l, s, at, amount, till, o) end
  end
  used(o, sum, l.count)
  if sum > 0 then o.reset = last(s) - now end
end

function M.absent(l, s) return last(s) end

function M.seen(l, s) return -HUGE end

function M.carry(old, l, src, now) return { src[1], b = src.b, from = src.from, tail = src.tail } end

function M.pack(s) return pack(HEAD, s[1]), front(s), s.tail end

function M.unpack(b, at) return { (unpack(HEAD, b, at)), b = b, from = at - 1 + HEAD_SIZE, tail = '' } end

return M
