-- A list of what is held, ordered by the instant at which it ends. It is s.h of a
-- state s, nil while nothing was ever held. The holds are packed into one string,
-- 32 bytes each: id, instant (exclusive) until which it counts, amount in tokens,
-- and a tag that says where the amount was charged. So a limit with thousands of
-- them costs copies of a string, not thousands of tables.
local WIDTH, FORM = 32, '<c8ddd'
local NONE = ('\0'):rep(8) -- the id of what is held without one, which nobody can name
local pack, unpack, sub, search = struct.pack, struct.unpack, string.sub, string.find
local M = { none = NONE, notag = -HUGE }

-- new returns an empty list: b the holds, n their number, sum their amounts.
function M.new() return { b = '', n = 0, sum = 0 } end

-- copy returns a list of its own.
function M.copy(h) return h and { b = h.b, n = h.n, sum = h.sum } end

-- at returns id, instant, amount and tag of hold i, counted from 1, the one that
-- ends first.
local function at(h, i) return unpack(FORM, h.b, WIDTH * (i - 1) + 1) end
M.at = at

-- due returns when hold i ends, and its amount.
local function due(h, i) return unpack('<dd', h.b, WIDTH * (i - 1) + 9) end
M.due = due

-- last returns the instant at which all have ended.
function M.last(h)
  if not h or h.n == 0 then return -HUGE end
  return (due(h, h.n))
end

-- ended returns how many have ended by now, and their amount.
local function ended(h, now)
  local n, amount = 0, 0
  if h then
    while n < h.n do
      local till, a = due(h, n + 1)
      if till > now then break end
      n, amount = n + 1, amount + a
    end
  end
  return n, amount
end
M.ended = ended

-- drop forgets the first n, which amount to that.
local function drop(h, n, amount)
  if n == 0 then return end
  h.b, h.n, h.sum = sub(h.b, WIDTH * n + 1), h.n - n, h.sum - amount
end
M.drop = drop

function M.drop_ended(h, now)
  if h and h.n > 0 then drop(h, ended(h, now)) end
end

-- insert adds a hold in order: nearly always at the end.
function M.insert(h, id, till, amount, tag)
  local i = h.n
  while i > 0 and due(h, i) > till do i = i - 1 end
  local x = pack(FORM, id or NONE, till, amount, tag)
  if i == h.n then
    h.b = h.b .. x
  else
    h.b = sub(h.b, 1, WIDTH * i) .. x .. sub(h.b, WIDTH * i + 1)
  end
  h.n, h.sum = h.n + 1, h.sum + amount
end

-- place returns the first hold of the id from place i on, or nil.
local function place(h, id, i)
  local from = WIDTH * (i - 1) + 1
  while true do
    from = search(h.b, id, from, true)
    if not from then return nil end
    if from % WIDTH == 1 then return (from - 1) / WIDTH + 1 end
    from = from + 1
  end
end

-- find returns the place of the hold with the id that counts at now, or nil.
function M.find(h, id, now)
  if not h or not id or id == NONE then return nil end
  local i = place(h, id, 1)
  while i do
    if due(h, i) > now then return i end
    i = place(h, id, i + 1)
  end
  return nil
end

local function remove(h, i)
  local _, amount = due(h, i)
  h.b = sub(h.b, 1, WIDTH * (i - 1)) .. sub(h.b, WIDTH * i + 1)
  h.n, h.sum = h.n - 1, h.sum - amount
  return amount
end
M.remove = remove

-- remove_all removes every hold of the id and returns their amount.
function M.remove_all(h, id)
  local amount = 0
  if not h or not id or id == NONE then return amount end
  local i = place(h, id, 1)
  while i do
    amount = amount + remove(h, i)
    i = place(h, id, i)
  end
  return amount
end

-- by returns what is held of what was charged under the tag.
function M.by(h, tag)
  local n = 0
  if h then
    for i = 1, h.n do
      local _, _, a, t = at(h, i)
      if t == tag then n = n + a end
    end
  end
  return n
end

-- add keeps a reservation that the call c made at now in the state s.
function M.add(s, c, now, amount, tag)
  local h = s.h
  if not h then
    h = M.new()
    s.h = h
  end
  drop(h, ended(h, now))
  M.insert(h, c.hold, now + c.holdfor, amount, tag)
end

-- apply does Settle and Renew at now, if the hold counts, and says so in the
-- outcome. What the work took beyond what was charged under the tag is change;
-- if it took less, change is below 0.
function M.apply(s, c, now, o)
  if c.op == RENEW and c.holdfor == 0 then return 0, -HUGE end
  local h = s.h
  local i = M.find(h, c.hold, now)
  if not i then
    o.ok = false
    return 0, -HUGE
  end
  local id, _, amount, tag = at(h, i)
  remove(h, i)
  drop(h, ended(h, now))
  if c.op == RENEW then
    M.insert(h, id, now + c.holdfor, amount, tag)
    return 0, -HUGE
  end
  return c.cost - amount, tag
end

return M
