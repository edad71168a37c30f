-- How budgets are kept: what a group of calls works on, and what it leaves.
--
-- A hash that a call needs is read once; calls that follow see what those before have
-- made of it; everything is written at the end. So whatever goes wrong before, such as a
-- key that is no hash, leaves all as it was. Redis checks whether it may write (memory,
-- role, replicas, disk) before the first write of a script only, and answers alike for
-- those that follow: if the first HSET passes, all do.
--
-- For the forms of arguments, records and answers see codec.go.
local pack, read, sub = struct.pack, struct.unpack, string.sub
local NONE, LEASE = ('\0'):rep(8), ('\255'):rep(8)
local _, EPOCH, SINCE, NOW = read('<Bc7dd', ARGV[1])
local REAL = NOW == 0
if REAL then
  local t = redis.call('TIME')
  NOW = t[1] * 1000000 + t[2]
end
local limits, hashes, touched = {}, {}, {}

-- limit returns the limit whose numbers are written in num.
local function limit(num)
  local l = limits[num]
  if l then return l end
  local a, count, x, y, z = cmsgpack.unpack(num)
  l = { a = a, count = count }
  if a < 2 then
    l.n, l.p, l.cap, l.burst = x, y, z, z / y
  elseif a == 3 then
    l.w, l.k, l.slice = x, y, x / y
  elseif a == 5 then
    l.roll, l.soft, l.zone = x, y == 1, z
  elseif a == 6 or a == 8 then
    l.ttl = x
  elseif a == 7 then
    l.w, l.ttl, l.slice = x, y, floor((x + 5) / 6)
  else
    l.w = x
  end
  limits[num] = l
  return l
end

-- A budget is a record that was read: num and l, s, keep, epoch, leases, and, of how it
-- is kept: field, hash, and noted, the second before which its hash does not expire,
-- -1 if there was no record. l is false if there is none. Here and below tables are made
-- with all their fields at once, or they would be made anew several times.
local function budget(field, hash, noted, epoch, num, l, s, keep, leases)
  return { field = field, hash = hash, noted = noted, epoch = epoch, num = num, l = l, s = s, keep = keep, leases = leases, dirty = false }
end

local function decode(rec, field, hash)
  if not rec then return budget(field, hash, -1, EPOCH, false, false, false, 0, false) end
  local kind, epoch, noted = read('<Bc7I5', rec)
  if kind == 0 then
    local v, at = read('<dd', rec, 14)
    local num = sub(rec, 30)
    return budget(field, hash, noted, epoch, num, limit(num), { v, at }, 0, false)
  elseif kind == 1 then
    local label, start, till, n, carry, after = read('<I4I5I5ddI5', rec, 14)
    local num = sub(rec, 49)
    return budget(field, hash, noted, epoch, num, limit(num), { label, start * 1000000, till * 1000000, n, carry, after * 1000000 }, 0, false)
  end
  local num, pos = read('<I2c0', rec, 14)
  local l, keep, h, leases = limit(num), 0, nil, false
  if kind > 16 then
    if kind % 2 == 1 then keep, pos = read('<d', rec, pos) end
    if floor(kind / 2) % 2 == 1 then
      local n, sum
      n, sum, pos = read('<I4d', rec, pos)
      h = { b = sub(rec, pos, pos + 32 * n - 1), n = n, sum = sum }
      pos = pos + 32 * n
    end
    if floor(kind / 4) % 2 == 1 then
      local n
      n, pos = read('<I2', rec, pos)
      leases = {}
      for i = 1, n do
        local holder, granted, settled, returned, seen
        holder, granted, settled, returned, seen, pos = read('<c16dddd', rec, pos)
        leases[i] = { holder = holder, granted = granted, settled = settled, returned = returned, seen = seen }
      end
    end
  end
  local m = algorithm(l)
  local s = m.unpack and m.unpack(rec, pos) or cmsgpack.unpack(sub(rec, pos))
  s.h = h
  return budget(field, hash, noted, epoch, num, l, s, keep, leases)
end

local function encode(e, noted)
  local s, h, keep, leases = e.s, e.s.h, e.keep, e.leases
  if h and h.n == 0 then h = nil end
  if keep <= NOW then keep = 0 end
  if not h and not leases and keep == 0 then
    local a = e.l.a
    if a <= 2 then return pack('<Bc7I5dd', 0, EPOCH, noted, s[1], s[2]) .. e.num end
    if a == 5 then
      return pack('<Bc7I5I4I5I5ddI5', 1, EPOCH, noted, s[1], s[2] / 1000000, s[3] / 1000000, s[4], s[5], s[6] / 1000000) .. e.num
    end
  end
  local kind, kept, held, list, out = 16, '', '', '', ''
  if keep > 0 then kind, kept = kind + 1, pack('<d', keep) end
  if h then kind, held, list = kind + 2, pack('<I4d', h.n, h.sum), h.b end
  if leases then
    local parts = { pack('<I2', #leases) }
    for i = 1, #leases do
      local x = leases[i]
      parts[i + 1] = pack('<c16dddd', x.holder, x.granted, x.settled, x.returned, x.seen)
    end
    kind, out = kind + 4, table.concat(parts)
  end
  local m, head, body, tail = algorithm(e.l), '', nil, ''
  s.h = nil
  if m.pack then head, body, tail = m.pack(s) else body = cmsgpack.pack(s) end
  return pack('<Bc7I5I2', kind, EPOCH, noted, #e.num) .. e.num .. kept .. held .. list .. out .. head .. body .. tail
end

-- fetch reads what is not known yet of the charges.
local function fetch(charges)
  local asks
  for i = 1, #charges do
    local x = charges[i]
    local hash = hashes[x.key]
    if not hash then
      hash = { key = x.key, known = {}, ask = false, dirty = false }
      hashes[x.key] = hash
    end
    x.hash = hash
    if not hash.known[x.field] then
      local ask = hash.ask
      if not ask then
        ask = { 'HMGET', x.key }
        hash.ask = ask
        asks = asks or {}
        asks[#asks + 1] = hash
      end
      ask[#ask + 1] = x.field
    end
  end
  for i = 1, asks and #asks or 0 do
    local hash = asks[i]
    local ask = hash.ask
    hash.ask = false
    if #ask == 3 then
      hash.known[ask[3]] = decode(redis.call('HGET', ask[2], ask[3]), ask[3], hash)
    else
      local found = {}
      for from = 3, #ask, 1000 do -- a function takes a few thousand arguments
        local part = redis.call('HMGET', ask[2], unpack(ask, from, min(from + 999, #ask)))
        for j = 1, #part do found[from + j - 1] = part[j] end
      end
      for j = 3, #ask do hash.known[ask[j]] = decode(found[j], ask[j], hash) end
    end
  end
end

local function absent(e) return max(e.keep, algorithm(e.l).absent(e.l, e.s)) end

local function mark(e)
  if e.dirty then return end
  e.dirty = true
  local hash = e.hash
  if not hash.dirty then
    hash.dirty = {}
    touched[#touched + 1] = hash
  end
  hash.dirty[#hash.dirty + 1] = e
end

-- save writes what has changed of a hash. Its expiry moves only if a record needs it,
-- and then further than it needs, so that an active budget rarely pays for it.
local function save(hash)
  local dirty, drop, expires, new = hash.dirty, nil, 0, true
  local write, n = {}, 0
  for i = 1, #dirty do
    local e = dirty[i]
    local gone = e.l and absent(e) or -HUGE
    if e.noted >= 0 then new = false end
    if gone > NOW then
      local noted, need = max(0, e.noted), floor(gone / 1000000) + 1
      if REAL and need > noted then
        noted = need + floor(min(max((gone - NOW) / 1000000, 1), 600))
        expires = max(expires, noted)
      end
      write[n + 1], write[n + 2] = e.field, encode(e, noted)
      n = n + 2
    elseif e.noted >= 0 then
      drop = drop or {}
      drop[#drop + 1] = e.field
    end
  end
  for from = 1, n, 2000 do redis.call('HSET', hash.key, unpack(write, from, min(from + 1999, n))) end
  if drop then
    for from = 1, #drop, 1000 do redis.call('HDEL', hash.key, unpack(drop, from, min(from + 999, #drop))) end
  end
  if expires > 0 and not (new and redis.call('EXPIREAT', hash.key, expires, 'NX') == 1) then
    redis.call('EXPIREAT', hash.key, expires, 'GT')
  end
end
