-- For wrk: counts answers by what they mean, and prints one line for the driver.
local threads = {}

function setup(thread)
  threads[#threads + 1] = thread
end

function init()
  passed, refused, other = 0, 0, 0
end

function response(status, headers)
  if status == 200 then
    passed = passed + 1
  elseif status == 429 and headers["Retry-After"] and headers["RateLimit"] then
    refused = refused + 1
  else
    other = other + 1
  end
end

function done(summary)
  local p, r, o = 0, 0, 0
  for _, t in ipairs(threads) do
    p, r, o = p + t:get("passed"), r + t:get("refused"), o + t:get("other")
  end
  local e = summary.errors
  io.write(string.format("counted %d %d %d %d %d\n", p, r, o,
    e.connect + e.read + e.write + e.timeout, summary.duration))
end
