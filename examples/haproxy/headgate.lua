-- http-request lua.headgate URL: asks Headgate whether a request may pass.
--
-- One that is refused is answered here. Otherwise txn.headgate is "passed", or
-- "away" if there is no answer, and not set if this script fails: what becomes
-- of the request then is for haproxy.cfg to say.

-- What Headgate learns of the client's header: what the policy reads, no more.
local asked = {"x-api-key"}

-- What the client gets of Headgate's header.
local told = {
  "content-type", "cache-control", "retry-after", "ratelimit", "ratelimit-policy", "headgate-reason",
}

-- An ask of so many bytes fits into HAProxy's buffer (tune.bufsize, 16384).
local most = 8192

local function reply(txn, status, body, fields)
  local r = txn:reply{status = status, body = body}
  for _, name in ipairs(told) do
    local value = fields[name]
    if value then r:add_header(name, value[0]) end
  end
  txn:done(r)
end

core.register_action("headgate", {"http-req"}, function(txn, url)
  -- The client's own fields of these names go nowhere: the ask is made anew.
  -- HAProxy has parsed the request, so no value holds the end of a line.
  local ask = {
    ["x-forwarded-method"] = {txn.sf:method()},
    ["x-forwarded-uri"] = {txn.sf:pathq()},
    ["x-forwarded-host"] = {txn.sf:req_hdr("host")},
    ["x-real-ip"] = {txn.sf:src()},
  }
  local given = txn.http:req_get_headers()
  for _, name in ipairs(asked) do
    local values = given[name]
    if values then
      ask[name] = {}
      for i = 0, #values do table.insert(ask[name], values[i]) end
    end
  end
  local size = 0
  for _, values in pairs(ask) do
    for _, value in ipairs(values) do size = size + #value end
  end
  if size > most then return reply(txn, 431, "request too long\n", {["content-type"] = {[0] = "text/plain"}}) end

  -- How long to wait is said in haproxy.cfg. The client's own time-out is not
  -- to strike first: it would ask, and charge, again.
  local res = core.httpclient():get{url = url .. "?deny=403", dst = "unix@ask.sock", headers = ask, timeout = 60000}
  local status = res and res.status
  -- deny=403: all that is the client's is a 403, and Headgate-Status says which
  -- status is meant. What is left is a fault of Headgate's.
  if status == 403 and res.headers["headgate-status"] then
    return reply(txn, tonumber(res.headers["headgate-status"][0]), res.body, res.headers)
  end
  if status ~= 204 then return txn:set_var("txn.headgate", "away") end
  txn:set_var("txn.headgate", "passed")
  for _, name in ipairs{"ratelimit", "ratelimit-policy"} do
    local value = res.headers[name]
    if value then txn:set_var("txn." .. name:gsub("-", "_"), value[0]) end
  end
end, 1)
