import {Headgate} from './client.js'

const isFunction = (v) => typeof v === 'function'
const isString = (v) => typeof v === 'string' && v !== ''
const isBoolean = (v) => typeof v === 'boolean'
const isCount = (v) => Number.isSafeInteger(v) && v >= 1
const wholeOrFunction = [(v) => v === 0 || isCount(v) || isFunction(v), 'a whole number from 0, or a function of (req, res)']
const textOrFunction = [(v) => isString(v) || isFunction(v), 'a string, or a function of (req, res)']
const functionOnly = [isFunction, 'a function']
const yesOrNo = [isBoolean, 'true or false']

// Every option: when it is right, and what it must be.
const options = {
  requestsPerMinute: wholeOrFunction,
  capacity: wholeOrFunction,
  limit: wholeOrFunction,
  max: wholeOrFunction,
  windowMs: [isCount, 'a whole number of milliseconds from 1'],
  identifier: [isFunction, 'a function of (req, res) that says who is limited; the name of a policy, which express-rate-limit takes here, is name'],
  keyGenerator: functionOnly,
  ipv6Subnet: [(v) => v === false || isFunction(v) || (Number.isInteger(v) && v >= 32 && v <= 64), 'a number of bits from 32 to 64, false, or a function of (req, res)'],
  skip: functionOnly,
  weight: [(v) => isFunction(v) || (Number.isSafeInteger(v) && v >= 0), 'a whole number from 0, or a function of (req, res)'],
  plan: textOrFunction,
  application: [isString, 'the name of an application of the policy'],
  operation: textOrFunction,
  attributes: functionOnly,
  maxWait: [isCount, 'a whole number of milliseconds from 1'],
  name: [(v) => isString(v) && /^[ -~]{1,64}$/.test(v), '1 to 64 printable ASCII characters'],
  client: [(v) => v instanceof Headgate, 'a Headgate'],
  message: [(v) => v !== null && ['string', 'object', 'function'].includes(typeof v), 'a string, an object, or a function of (req, res)'],
  statusCode: [(v) => Number.isInteger(v) && v >= 400 && v <= 599, 'a status from 400 to 599'],
  handler: functionOnly,
  onLimitExceeded: functionOnly,
  onStoreError: [(v) => v === 'open' || v === 'closed' || isFunction(v), "'open', 'closed', or a function of (error, req, res) that says which"],
  passOnStoreError: yesOrNo,
  standardHeaders: [(v) => isBoolean(v) || ['draft-6', 'draft-7', 'draft-8'].includes(v), "true, false, 'draft-6', 'draft-7' or 'draft-8'"],
  legacyHeaders: yesOrNo,
  requestPropertyName: [(v) => isString(v) && !['__proto__', 'constructor', 'prototype'].includes(v), 'the name of a property, and none that objects have already'],
  requestWasSuccessful: functionOnly,
  skipFailedRequests: yesOrNo,
  skipSuccessfulRequests: yesOrNo
}

// What others have, and what to write here.
const instead = {
  store: 'the Headgate server keeps the limits. In memory: headgate serve --store memory. In Redis: headgate serve --store redis://HOST:PORT. Here only give client: new Headgate({url})',
  validate: 'there is nothing to switch off: faults of the options are errors always. Remove it',
  logger: 'give it to the client: client: new Headgate({logger})',
  retryAfter: 'Retry-After is when the request would pass. Remove it, or set the field in handler',
  headers: 'write legacyHeaders, for X-RateLimit-*, or standardHeaders',
  draft_polli_ratelimit_headers: 'write standardHeaders',
  onLimitReached: 'write onLimitExceeded, which is called for every refusal'
}

function check(given) {
  for (const name in given) {
    if (given[name] === undefined) continue
    if (name in instead) throw new TypeError(`${name}: ${instead[name]}`)
    if (!Object.hasOwn(options, name)) throw new TypeError(`${name}: unknown; there are ${Object.keys(options).join(', ')}`)
    const [right, what] = options[name]
    if (!right(given[name])) throw new TypeError(`${name}: ${String(given[name]).slice(0, 64)}: must be ${what}`)
  }
}

function oneOf(given, ...names) {
  const said = names.filter((name) => given[name] !== undefined)
  if (said.length > 1) throw new TypeError(`${said.join(' and ')}: two names of one thing; write one of them`)
  return given[said[0]]
}

function needsPolicy(given, names) {
  for (const name of names) if (given[name]) throw new TypeError(`${name}: needs application, the name of one in the server's policy`)
}

let usual
/** The client of all middleware that names none. */
function usualClient() {
  usual ??= new Headgate()
  return usual
}

// Where the numbers are said here: a token bucket of the caller's.
function bucketOf(given) {
  const perMinute = given.requestsPerMinute
  const limit = oneOf(given, 'requestsPerMinute', 'limit', 'max') ?? 60
  if (perMinute !== undefined && given.windowMs !== undefined) throw new TypeError('windowMs: requestsPerMinute is per minute; with windowMs write limit')
  const capacity = given.capacity ?? limit
  if ((limit === 0) !== (capacity === 0)) {
    throw new TypeError(limit === 0 ? 'capacity: with a limit of 0 nothing passes; leave it out' : 'capacity: 0: nothing would pass; write a limit of 0 for that')
  }
  return {limit, capacity, windowMs: given.windowMs ?? 60_000}
}

/** Reads the options of rateLimit, with defaults. Throws a TypeError that names the fault and says what to write. */
export function readLimiterOptions(given) {
  if (typeof given !== 'object' || given === null) throw new TypeError('options: must be an object')
  check(given)
  const o = {
    application: given.application,
    operation: given.operation,
    plan: given.plan,
    attributes: given.attributes,
    maxWait: given.maxWait,
    name: given.name,
    identifier: oneOf(given, 'identifier', 'keyGenerator'),
    ipv6Subnet: given.ipv6Subnet ?? 64,
    skip: given.skip,
    weight: given.weight ?? 1,
    message: given.message,
    statusCode: given.statusCode,
    handler: given.handler,
    onLimitExceeded: given.onLimitExceeded,
    onStoreError: oneOf(given, 'onStoreError', 'passOnStoreError'),
    standardHeaders: given.standardHeaders === true ? 'draft-6' : (given.standardHeaders ?? 'draft-8'),
    legacyHeaders: given.legacyHeaders ?? false,
    requestPropertyName: given.requestPropertyName ?? 'rateLimit',
    requestWasSuccessful: given.requestWasSuccessful ?? ((req, res) => res.statusCode < 400),
    skipFailedRequests: given.skipFailedRequests ?? false,
    skipSuccessfulRequests: given.skipSuccessfulRequests ?? false
  }
  if (isBoolean(o.onStoreError)) o.onStoreError = o.onStoreError ? 'open' : 'closed'
  if (o.identifier && given.ipv6Subnet !== undefined) throw new TypeError('ipv6Subnet: identifier says who is limited; call ipKeyGenerator(req.ip, bits) there')
  if (o.application === undefined) {
    needsPolicy(given, ['operation', 'plan', 'attributes', 'maxWait', 'skipFailedRequests', 'skipSuccessfulRequests'])
    Object.assign(o, bucketOf(given))
  } else {
    for (const name of ['requestsPerMinute', 'limit', 'max', 'capacity', 'windowMs', 'name']) {
      if (given[name] !== undefined) throw new TypeError(`${name}: with application the policy says the limits; leave it out`)
    }
  }
  o.client = given.client ?? usualClient()
  if (o.maxWait !== undefined && !o.client.canWait) throw new TypeError('maxWait: waiting in line holds up all calls of a connection of the Redis door; give client: new Headgate({url: "http://..."})')
  return o
}
