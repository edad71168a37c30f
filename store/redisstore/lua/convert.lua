-- Carries states over to other numbers.
local holds = use('holds')
local MOST = 9007199254740991 -- headgate.MaxInt
local CONCURRENCY = 6
local M = {}

-- recharge charges what old has used to l.
local function recharge(old, l, src, now)
  local o = outcome(old)
  if old.a ~= 5 or now < src[3] then -- else its period is over, whatever the next one is
    algorithm(old).apply(call(PEEK, now), old, src, o)
  end
  local s = algorithm(l).init(l, now)
  local c = call(DEBIT, now)
  c.cost = o.used
  algorithm(l).apply(c, l, s, outcome(l))
  return s
end

-- carry is convert without reservations.
local function carry(old, l, src, now)
  local m = algorithm(l)
  if old.a == l.a or old.a < 2 and l.a < 2 then
    if l.a ~= 3 then return m.carry(old, l, src, now) end
    if old.k == l.k and old.slice == l.slice then return m.carry(old, l, src, now) end
    return recharge(old, l, src, now)
  end
  if old.a < CONCURRENCY then return recharge(old, l, src, now) end
  return m.init(l, now)
end

-- same_tags reports whether a reservation's tag means the same under both.
local function same_tags(old, l)
  local a = l.a
  if old.a ~= a then return false end
  if a == 2 then return old.w == l.w end
  if a == 3 then return old.k == l.k and old.slice == l.slice end
  if a == 5 then return old.zone == l.zone end
  return true -- a log's instants are instants; buckets have no tags
end
M.same_tags = same_tags

-- escrow moves the open reservations of src to the state s, which was carried over
-- from old to l at now. What a token bucket holds is at most MOST in all.
local function escrow(old, l, s, src, now)
  local from = src.h
  local gone = holds.ended(from, now)
  if gone == from.n then return end
  local to, same, left = holds.new(), same_tags(old, l), MOST
  for i = gone + 1, from.n do
    local id, till, amount, tag = holds.at(from, i)
    if not same then tag = holds.notag end
    if l.a == 0 then
      amount = min(amount, left)
      left = left - amount
    end
    holds.insert(to, id, till, amount, tag)
  end
  s.h = to
  if l.a < 2 then algorithm(l).below(l, s, 0) end
end

-- at returns the instant at which a state seen at now is carried over: a clock that
-- went back must not take what was used into a window that ends before the one that it
-- was used in.
function M.at(old, src, now) return max(now, algorithm(old).seen(old, src)) end

-- convert returns the state src, kept under old, as it is under l at the instant.
function M.convert(old, l, src, at)
  local s = carry(old, l, src, at)
  if src.h and src.h.n > 0 and old.a < CONCURRENCY and l.a < CONCURRENCY then escrow(old, l, s, src, at) end
  return s
end

return M
