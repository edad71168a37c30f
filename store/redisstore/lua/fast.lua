-- Most calls charge nothing but token buckets that hold nothing, under the numbers that
-- they were written with. A group of such calls is decided here, without what the
-- engine needs to be made for the rest. Where anything else is found, nothing was
-- written yet, and the engine decides the group.
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
  -- A budget is a place in these lists. Where one may come twice, places has it.
  local keys, fields, nums, rates, caps, levels, instants, noted, dirty = {}, {}, {}, {}, {}, {}, {}, {}, {}
  local places, size, base, answers = mode == 2 and {}, 0, 0, {}
  local at, needs, flags, found = {}, {}, {}, nil -- of one call's charges

  -- load makes the record rec, or false, the budget at place i at now.
  local function load(i, rec, num, n, cap)
    local v, t, from
    if rec then
      if #rec ~= 29 + #num or sub(rec, 30) ~= num then return false end
      local kind, e, x
      kind, e, x, v, t = read('<Bc7I5dd', rec)
      if kind ~= 0 or v < 0 then return false end
      noted[i] = x
      local elapsed = now - t
      if elapsed >= 0 then
        if elapsed > (cap - v) / n then v = cap else v = min(cap, v + elapsed * n) end
        if v == cap then
          from = since
        elseif e ~= epoch then
          from = max(t, since)
        end
        t = now
      elseif e ~= epoch then
        from = max(t, since)
      end
    else
      noted[i], from = -1, since
    end
    if from == 0 then
      v, t = cap, now
    elseif from then -- it was empty then
      local elapsed = now - from
      if elapsed <= 0 then
        v, t = 0, from
      elseif elapsed > cap / n then
        v, t = cap, now
      else
        v, t = min(cap, elapsed * n), now
      end
    end
    nums[i], rates[i], caps[i], levels[i], instants[i] = num, n, cap, v, t
    return true
  end

  for a = 2, #ARGV do
    local p = ARGV[a]
    local _, op, charges, own, pos = read('<BBI2I2', p)
    local several = charges > 1 and own == 1
    if several then
      local from, ask = pos, { 'HMGET', KEYS[base + 1] }
      for c = 1, charges do
        local field, _
        _, field, _, _, _, _, _, _, _, _, from = read('<I2c16BI2c0dI2I2c0ddd', p, from)
        ask[c + 2] = field
      end
      found = redis_call(unpack(ask))
    end
    local allowed = true
    for c = 1, charges do
      local k, field, flag, num, _, _, _, n, cap, need
      k, field, flag, num, _, _, _, n, cap, need, pos = read('<I2c16BI2c0dI2I2c0ddd', p, pos)
      local key = KEYS[base + k]
      local id = places and key .. field
      local i = places and places[id]
      if not i then
        local rec
        if several then rec = found[c] else rec = redis_call('HGET', key, field) end
        i = size + 1
        if flag >= 4 then -- a ban or the like, of which there must be nothing
          if rec then return nil end
          levels[i], instants[i] = 0, 0
        elseif not load(i, rec, num, n, cap) then
          return nil
        end
        keys[i], fields[i], size = key, field, i
        if places then places[id] = i end
      elseif flag < 4 and nums[i] ~= num or flag >= 4 and nums[i] then
        return nil
      end
      at[c], needs[c], flags[c] = i, need, flag
      if levels[i] < need and flag % 2 == 0 then allowed = false end
    end
    base = base + own
    local answer = pack('<BBddd', 1, allowed and 1 or 0, now, levels[at[1]], instants[at[1]])
    for c = 2, charges do answer = answer .. pack('<dd', levels[at[c]], instants[at[c]]) end
    answers[a - 1] = answer
    for c = 1, charges do
      local i, need = at[c], needs[c]
      if not allowed then
        if flags[c] >= 8 then return nil end -- a ban that counts
      elseif op == 0 and need > 0 and levels[i] >= need then
        levels[i], dirty[i] = levels[i] - need, true
      end
    end
  end

  local i = 1
  while i <= size do
    local key, write, expires, new, n = keys[i], nil, 0, true, 2
    repeat
      if dirty[i] then
        local v, t, x = levels[i], instants[i], noted[i]
        if x >= 0 then new = false end
        if real then
          local left = (caps[i] - v) / rates[i] / 1000000
          local gone = floor(t / 1000000 + left) + 2
          if gone > x then
            x = gone + floor(min(max(left, 1), 600))
            expires = max(expires, x)
          end
        end
        if not write then write = { 'HSET', key } end
        write[n + 1], write[n + 2] = fields[i], pack('<Bc7I5dd', 0, epoch, max(x, 0), v, t) .. nums[i]
        n = n + 2
      end
      i = i + 1
    until keys[i] ~= key
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
