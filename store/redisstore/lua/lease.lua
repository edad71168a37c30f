-- What a store hands out to holders. See package algo: the functions have its names.
local holds = use('holds')
local pack, read = struct.pack, struct.unpack
local LEASE = ('\255'):rep(8)
local MOST = 9007199254740991 -- headgate.MaxInt
local OK, STALE, UNKNOWN = 0, 1, 2
local M = {}

-- request reads a request, and the terms, behind its charge.
function M.request(p, pos)
  local r = {}
  r.holder, r.epoch, r.window, r.granted, r.settled, r.returned, r.want, r.least, r.floor, r.within, pos = read('<c16c7dddddddd', p, pos)
  r.ttl, r.grace, r.smallest, r.tenth, r.each, r.fifth, r.most, pos = read('<ddddddd', p, pos)
  return r, pos
end

-- lent returns the place of the hold of what is out that counts at now, or nil.
local function lent(b, now) return holds.find(b.s.h, LEASE, now) end

local function seen(b, now) return max(now, algorithm(b.l).seen(b.l, b.s)) end

local function outstanding(b)
  local n = 0
  for i = 1, #b.leases do n = n + b.leases[i].granted - b.leases[i].settled end
  return n
end

-- put replaces the hold of what is out.
local function put(b, till, amount, tag)
  local i = lent(b, -HUGE)
  if i then holds.remove(b.s.h, i) end
  if not b.s.h then b.s.h = holds.new() end
  holds.insert(b.s.h, LEASE, till, amount, tag)
  if b.l.a == 0 then b.s[3] = nil end
end

-- lendable reports whether a lease means anything to limits of this kind.
local function lendable(l) return l.a == 0 or l.a == 2 or l.a == 3 and l.k > 1 or l.a == 5 end

-- settle brings the budget to now. It returns the window's name, its tag and its end,
-- and the instant of the request, or a later one that was already seen.
local function settle(b, now, forget)
  local l, s = b.l, b.s
  local id, tag, till = 0, holds.notag, 0
  if l.a == 0 then
    use('bucket').settled(l, s, now)
  elseif l.a == 3 then
    local sliding = use('sliding')
    id = sliding.sum(s, 1, l.k, l.slice, now)
    sliding.advance(s, 1, l.k, id)
    tag, till = id, (id + 1) * l.slice
  else
    algorithm(l).apply(call(RELEASE, now), l, s, outcome(l)) -- goes on to the present window, no more
    if l.a == 2 then
      tag, till, id = s[1], s[1], floor(s[1] / l.w) - 1
    else
      tag, till, id = s[3], s[3], s[1]
    end
  end
  now = seen(b, now)
  if b.leases and not lent(b, now) then forget(b) end -- with its window at the latest
  return id, tag, till, now
end

-- forget_silent forgets the accounts of holders that are silent for so long that nothing
-- they have can still be spent.
local function forget_silent(b, now, r, forget)
  if not b.leases then return end
  local kept = {}
  for i = 1, #b.leases do
    local x = b.leases[i]
    if now - x.seen < r.ttl + r.grace then kept[#kept + 1] = x end
  end
  if #kept == #b.leases then return end
  if #kept == 0 then return forget(b) end
  b.leases = kept
  local i = lent(b, now)
  local _, till, _, tag = holds.at(b.s.h, i)
  put(b, till, outstanding(b), tag)
end

-- counter is where the current window, slice or period counts.
local function counter(b)
  local a, s = b.l.a, b.s
  if a == 2 then return 2 end
  if a == 3 then return 2 + s[1] % (b.l.k + 1) end
  return 4
end

-- charge takes tokens out of the budget, which was settled, or gives them back.
local function charge(b, tokens)
  if b.l.a == 0 then
    use('bucket').charge(b.l, b.s, tokens)
  else
    local i = counter(b)
    b.s[i] = max(0, b.s[i] + tokens)
  end
end

-- left returns the tokens that are left in the budget, which was settled, and its
-- capacity.
local function left(b)
  local l, s = b.l, b.s
  if l.a == 0 then return floor(s[1] / l.p), l.burst end
  if l.a == 2 then return l.count - s[2], l.count end
  if l.a == 3 then
    local _, sum = use('sliding').sum(s, 1, l.k, l.slice, s[1] * l.slice)
    return l.count - sum, l.count
  end
  return l.count + s[5] - s[4], l.count + s[5]
end

local function find(b, holder)
  for i = 1, b.leases and #b.leases or 0 do
    if b.leases[i].holder == holder then return b.leases[i] end
  end
  return nil
end

-- standing returns how a request stands to the present epoch and window, and to the
-- account of its holder.
local function standing(b, r, epoch, window)
  local first = r.epoch == ('\0'):rep(7) and r.window == 0 and r.granted == 0
  if not first and (r.epoch ~= epoch or r.window ~= window) then return STALE end
  if b.l.a == 7 then return OK end -- of which there are no accounts
  local x = find(b, r.holder)
  if not x and r.granted > 0 or x and x.granted < r.granted then return UNKNOWN end
  return OK
end

-- account returns the holder's account, which it opens for a holder that wants something
-- as long as there is room for one.
local function account(b, r)
  local x = find(b, r.holder)
  if x or r.want <= 0 or b.leases and #b.leases >= r.most then return x end
  x = { holder = r.holder, granted = 0, settled = 0, returned = 0, seen = 0 }
  b.leases = b.leases or {}
  b.leases[#b.leases + 1] = x
  return x
end

-- active returns how many holders were seen lately.
local function active(b, now, r)
  local n = 0
  for i = 1, b.leases and #b.leases or 0 do
    if now - b.leases[i].seen <= 2 * r.ttl then n = n + 1 end
  end
  return n
end

-- grant returns how many tokens the holder is given more.
local function grant(b, r, now)
  local l, g = b.l, r.want
  if (l.a == 0 and l.burst or l.count) < r.smallest then return 0 end
  if l.soft then
    g = min(g, MOST - b.s[4])
  else
    local rest, capacity = left(b)
    local holders = active(b, now, r)
    local least = max(floor(capacity / r.tenth), r.each * holders)
    g = min(g, floor((rest - least) / (2 * holders)), floor(capacity / r.fifth) - outstanding(b))
  end
  if g < max(1, r.least) then return 0 end
  return g
end

-- settle_account takes over what the holder reports, as far as it was granted. What was
-- once reported as settled without being returned has begun to refill in a bucket, which
-- is then credited no more of it.
local function settle_account(b, x, r)
  local settled = max(0, min(r.settled, r.granted) - x.settled)
  x.settled = x.settled + settled
  local returned = min(r.returned, x.settled) - x.returned
  if b.l.a == 0 then returned = min(returned, settled) end
  if returned > 0 then
    x.returned = x.returned + returned
    charge(b, -returned)
  end
end

-- acquire settles what the request reports and grants what it can. It returns the head of
-- the reply, and whether the record has changed. forget forgets all accounts of a budget.
function M.acquire(b, r, epoch, now, since, forget)
  local l, changed = b.l, false
  local window, till, granted, status = 0, 0, 0, nil
  local at = now
  if lendable(l) then
    local tag
    window, tag, till, at = settle(b, now, forget)
    forget_silent(b, at, r, forget)
    local early = now < since and l.a ~= 0
    if early and r.within == window then
      local i = counter(b)
      local least = min(r.floor, MOST)
      if least > b.s[i] then b.s[i], changed = least, true end
    end
    status = standing(b, r, epoch, window)
    local x = status == OK and account(b, r)
    if x then
      settle_account(b, x, r)
      x.seen = at
      if x.granted == r.granted and not early then -- else it is answered again
        local g = grant(b, r, at)
        charge(b, g)
        x.granted = x.granted + g
      end
      granted, changed = x.granted, true
      local gone = at + r.ttl + r.grace
      if till ~= 0 then gone = min(gone, till) end
      put(b, gone, outstanding(b), tag)
    end
  else
    forget(b)
    status = standing(b, r, epoch, 0)
  end
  local count = till ~= 0 and b.s[counter(b)] or 0
  local holders = active(b, at, r) + (find(b, r.holder) and 0 or 1)
  return pack('<Bddddd', status, window, granted, till ~= 0 and till - now or 0, count, holders), changed
end

-- reset makes b, which was loaded, a budget that was never seen, but for what is leased
-- out. It reports false if nothing is.
function M.reset(b, now, unseen, forget)
  local _, tag, _, at = settle(b, now, forget)
  local out = b.leases and outstanding(b) or 0
  if out == 0 then return false end
  local _, till = holds.at(b.s.h, lent(b, at))
  b.s, b.keep = unseen(b.l, at), 0
  put(b, till, out, tag)
  if b.l.a == 0 then use('bucket').below(b.l, b.s, 0) else charge(b, out) end
  return true
end

return M
