-- Most calls take from token buckets, windows and quotas of which nothing is held, under
-- the numbers that they were written with. A group of such calls is decided here, without
-- what the engine needs to be made for the rest; the states themselves are the answer,
-- and whoever asked does the arithmetic that says the rest. Where anything else is found,
-- nothing was written yet, and the engine decides the group.
--
-- For the forms of arguments, records and answers see codec.go.
local function fast()
  local redis_call, read, pack, sub, floor, min, max = redis.call, struct.unpack, struct.pack, string.sub, math.floor, math.min, math.max
  local mode, epoch, since, now = read('<Bc7dd', ARGV[1])
  if mode == 0 then return nil end
  local real = now == 0
  if real then
    local t = redis_call('TIME')
    now = t[1] * 1000000 + t[2]
  end
  local BUCKET, WINDOW, SLIDING, QUOTA = 0, 2, 3, 5
  local MOST = 9007199254740991 -- headgate.MaxInt

  -- load makes the record rec, or false, the budget b as it is at now. What is left, and
  -- what this group took, are tokens, of a bucket units of 1/p token. ends is when a
  -- bucket's level is true, and when what a window has counted stops to count. It
  -- reports false for what is not known here.
  local function load(b, rec, n, cap, k)
    local kind, num = b.kind, b.num
    if kind == SLIDING then
      local newest, s, sum = floor(now / n), nil, 0
      if rec then
        local form, _, x, size = read('<Bc7I5I2', rec)
        if form ~= 16 or size ~= #num or sub(rec, 16, 15 + size) ~= num then return false end
        s, b.noted = cmsgpack.unpack(sub(rec, 16 + size)), x
        local last = s[1]
        newest = max(newest, last)
        for i = max(last, newest - k - 1) + 1, newest do s[2 + i % (k + 1)] = 0 end
        s[1] = newest
        for i = 2, k + 2 do sum = sum + s[i] end
      else
        s = { newest }
        for i = 2, k + 2 do s[i] = 0 end
      end
      b.left, b.more, b.ends = cap - sum, s, (newest + k + 1) * n
      return true
    elseif kind == QUOTA then
      if not rec or #rec ~= 48 + #num or sub(rec, 49) ~= num then return false end
      local form, _, x, label, start, till, used, carry, after = read('<Bc7I5I4I5I5ddI5', rec)
      if form ~= 1 or now >= till * 1000000 then return false end -- the next period is not known here
      b.noted, b.used, b.more, b.ends = x, used, { label, start, till, carry, after }, (n >= 2 and after or till) * 1000000
      b.left = n % 2 == 1 and math.huge or cap + carry - used
      return true
    end
    local v, t, e
    if rec then
      if #rec ~= 29 + #num or sub(rec, 30) ~= num then return false end
      local form, x
      form, e, x, v, t = read('<Bc7I5dd', rec)
      if form ~= 0 then return false end
      b.noted = x
    end
    if kind == WINDOW then
      if not rec or now >= v then v, t = (floor(now / n) + 1) * n, 0 end
      b.left, b.used, b.ends = cap - t, t, v
      return true
    end
    local empty -- since when
    if not rec then
      empty = since
    elseif v < 0 then
      return false
    else
      local elapsed = now - t
      if elapsed >= 0 then
        if elapsed > (cap - v) / n then v = cap else v = min(cap, v + elapsed * n) end
        if v == cap then
          empty = since
        elseif e ~= epoch then
          empty = max(t, since)
        end
        t = now
      elseif e ~= epoch then
        empty = max(t, since)
      end
    end
    if empty == 0 then
      v, t = cap, now
    elseif empty then
      local elapsed = now - empty
      if elapsed <= 0 then
        v, t = 0, empty
      elseif elapsed > cap / n then
        v, t = cap, now
      else
        v, t = min(cap, elapsed * n), now
      end
    end
    b.left, b.ends = v, t
    return true
  end

  -- state is what the answer says of a budget as it is now.
  local function state(b)
    local kind, m = b.kind, b.more
    if kind == BUCKET then return pack('<dd', b.left, b.ends) end
    if kind == WINDOW then return pack('<dd', b.ends, b.used + b.took) end
    if kind == SLIDING then return pack('<' .. ('d'):rep(#m), unpack(m)) end
    if kind == QUOTA then return pack('<ddddd', m[1], m[2] * 1000000, m[3] * 1000000, min(MOST, b.used + b.took), m[4]) end
    return ''
  end

  -- record is what is kept of it, noted that its hash does not expire before x.
  local function record(b, x)
    local kind, num, m = b.kind, b.num, b.more
    if kind == BUCKET then return pack('<Bc7I5dd', 0, epoch, x, b.left, b.ends) .. num end
    if kind == WINDOW then return pack('<Bc7I5dd', 0, epoch, x, b.ends, b.used + b.took) .. num end
    if kind == SLIDING then return pack('<Bc7I5I2c0', 16, epoch, x, #num, num) .. cmsgpack.pack(m) end
    return pack('<Bc7I5I4I5I5ddI5', 1, epoch, x, m[1], m[2], m[3], min(MOST, b.used + b.took), m[4], m[5]) .. num
  end

  -- places finds budgets that another call of the group may have loaded.
  local all, size, places, base, answers = {}, 0, mode == 2 and {}, 0, {}
  local budgets, needs, flags = {}, {}, {} -- of one call's charges
  for a = 2, #ARGV do
    local p = ARGV[a]
    local _, op, charges, own, times, pos = read('<BBI2I2I2', p)
    local passed = times -- so many of the equal calls
    for c = 1, charges do
      local key, field, flag, num, kind, k, n, cap, need, _
      key, field, flag, num, _, _, _, kind, k, n, cap, need, pos = read('<I2c16BI2c0dI2I2c0BBddd', p, pos)
      key = KEYS[base + key]
      local b = places and places[key .. field]
      if not b then
        local rec = redis_call('HGET', key, field)
        b = { key = key, field = field, kind = kind, num = num, rate = n, cap = cap, noted = -1, left = 0, took = 0, ends = 0, used = 0, more = false }
        if flag >= 4 then -- a ban or the like, of which there must be nothing
          if rec then return nil end
        elseif not load(b, rec, n, cap, k) then
          return nil
        end
        size = size + 1
        all[size] = b
        if places then places[key .. field] = b end
      elseif b.num ~= num then
        return nil
      end
      if now < since and need > 0 and kind ~= BUCKET then return nil end
      budgets[c], needs[c], flags[c] = b, need, flag
      if need > 0 and flag % 2 == 0 and b.left < need * passed then passed = max(0, floor(b.left / need)) end
    end
    base = base + own
    local b = budgets[1]
    local answer
    if b.kind == BUCKET then
      answer = pack('<BI2ddd', 1, passed, now, b.left, b.ends)
    else
      answer = pack('<BI2d', 1, passed, now) .. state(b)
    end
    for c = 2, charges do answer = answer .. state(budgets[c]) end
    answers[a - 1] = answer
    for c = 1, charges do
      local need = needs[c]
      b = budgets[c]
      if passed < times and flags[c] >= 8 then return nil end -- a ban that counts
      if op == 0 and need > 0 and passed > 0 then
        local n = need * passed
        if b.left < n then n = need * max(0, floor(b.left / need)) end -- a shadow
        b.left, b.took = b.left - n, b.took + n
        local m = b.more
        if b.kind == SLIDING then
          local i = 2 + m[1] % (#m - 1)
          m[i] = m[i] + n
        end
      end
    end
  end

  local i = 1
  while i <= size do
    local b = all[i]
    local key, write, expires, new, n = b.key, nil, 0, true, 2
    repeat
      if b.took > 0 then
        local x = b.noted
        if x >= 0 then new = false end
        if real then
          local gone = b.ends
          if b.kind == BUCKET then gone = gone + (b.cap - b.left) / b.rate end
          gone = floor(gone / 1000000) + 2
          if gone > x then
            x = gone + floor(min(max(gone - now / 1000000, 1), 600))
            expires = max(expires, x)
          end
        end
        if not write then write = { 'HSET', key } end
        write[n + 1], write[n + 2] = b.field, record(b, max(x, 0))
        n = n + 2
      end
      i = i + 1
      b = all[i]
    until i > size or b.key ~= key
    if n == 4 then
      redis_call('HSET', key, write[3], write[4])
    elseif n > 4 then
      redis_call(unpack(write))
    end
    if expires > 0 and not (new and redis_call('EXPIREAT', key, expires, 'NX') == 1) then
      redis_call('EXPIREAT', key, expires, 'GT')
    end
  end
  return answers
end
local decided = fast()
if decided then return decided end
