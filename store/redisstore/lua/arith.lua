-- Arithmetic that doubles need help with. They are exact below 2^53, and there
-- floor(a/b) is exact too, for a of either sign: a quotient that is not whole but
-- rounds to the next whole number needs a >= 2^53. Only products are larger.
local HALF = 134217728 -- 2^27
local MOST = 9007199254740991 -- headgate.MaxInt
local M = { most = MOST }

-- limbs returns a*b, none of them negative, as h*2^54 + m*2^27 + l with m and l from
-- 0 to 2^27-1. The halves are signed, so that no sum on the way exceeds 2^53.
local function limbs(a, b)
  local a1, b1 = floor(a / HALF + 0.5), floor(b / HALF + 0.5)
  local a0, b0 = a - a1 * HALF, b - b1 * HALF
  local h, m, l = a1 * b1, a1 * b0 + a0 * b1, a0 * b0
  local up = floor(m / HALF)
  h, m = h + up, m - up * HALF
  up = floor(l / HALF)
  m, l = m + up, l - up * HALF
  up = floor(m / HALF)
  return h + up, m - up * HALF, l
end

-- minus returns a*b - c*d, none of them negative: exact where it is below 2^53, else
-- on the right side of every whole number below 2^53.
local function minus(a, b, c, d)
  local h, m, l = limbs(a, b)
  local h2, m2, l2 = limbs(c, d)
  return ((h - h2) * HALF + (m - m2)) * HALF + (l - l2)
end

-- covers reports whether a*b >= c*d, none of them negative.
function M.covers(a, b, c, d)
  local p, q = a * b, c * d
  if p ~= q or p <= MOST then return p >= q end
  return minus(a, b, c, d) >= 0
end

-- mul_div returns floor(a*b/c), which must be below 2^53, none of them negative, c
-- not 0; and the remainder.
local function mul_div(a, b, c)
  local p = a * b
  local q = floor(p / c)
  if p <= MOST then return q, p - q * c end
  local r = minus(a, b, q, c)
  while r < 0 do
    q = q - 1
    r = minus(a, b, q, c)
  end
  while r >= c do
    q = q + 1
    r = minus(a, b, q, c)
  end
  return q, r
end
M.mul_div = mul_div

-- mul_div_ceil returns ceil(a*b/c), else as mul_div.
function M.mul_div_ceil(a, b, c)
  local q, r = mul_div(a, b, c)
  if r > 0 then return q + 1 end
  return q
end

-- used counts n whole tokens against a limit.
function M.used(o, n, limit)
  o.limit, o.used = limit, n
  o.remaining, o.overage = max(0, limit - n), max(0, n - limit)
end

return M
