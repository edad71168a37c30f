import {setTimeout as delay} from 'node:timers/promises'
import {inspect, types} from 'node:util'
import {isClosed, onceClosed} from './closing.js'
import {nothing} from './decision.js'
import {HeadgateError, isUndecided} from './errors.js'
import {Bucket, setFields, setLegacy, setOlder, tightest} from './fields.js'
import {ipKeyGenerator, Keys, subject} from './key.js'
import {readLimiterOptions} from './limiteroptions.js'
import {problemOf, sendBadTarget, sendMessage, sendProblem, setRefusal} from './refusal.js'
import {BadTarget, targetOf} from './target.js'

/** Makes middleware that limits requests. What its options do is described in index.d.ts. */
export function rateLimit(options = {}) {
  const limiter = new Limiter(readLimiterOptions(options))
  const middleware = (req, res, next) => {
    // Outside of our promises: what it throws is the program's own.
    const goOn = (...args) => process.nextTick(next, ...args)
    limiter
      .decide(req, res)
      .then((decision) => limiter.act(decision, req, res, goOn))
      .catch((error) => fail(error, req, res, goOn))
  }
  middleware.client = limiter.client
  return middleware
}

// How long requestWasSuccessful may take, in milliseconds.
const longestVerdict = 5000

// A ticket is renewed at a quarter of the time for which it holds, so that two renewals in a
// row may fail. The server tells the end of a limit's last slot, which may be another one
// that is held for longer; so the time is at most that of limits that say none, and at least
// one second: in milliseconds.
const longestHold = 30_000
const shortestHold = 1000

const renewalOf = ({limits}) => Math.max(shortestHold, Math.min(longestHold, ...limits.filter((l) => l.algorithm === 'concurrency').map((l) => l.resetMs))) / 4

// How many limiters there are of the same numbers, by client; of more the last ones are one.
const made = new WeakMap()
const mostAlike = 100

class Limiter {
  #o
  #mindsProxies // until it has warned of a proxy that nobody minds
  #keys // of buckets; null where the policy is asked
  #kind // of who is limited
  #bucket = null // where its numbers do not depend on the request
  #refunds
  #onError

  constructor(o) {
    this.#o = o
    this.client = o.client
    this.#refunds = o.skipFailedRequests || o.skipSuccessfulRequests
    this.#onError = typeof o.onStoreError === 'function' ? 'throw' : o.onStoreError
    this.#keys = o.application === undefined ? new Keys(o.client.application, o.name ?? this.#defaultName()) : null
    this.#mindsProxies = o.identifier === undefined
    this.#kind = o.identifier ? 'id' : 'ip'
    if (this.#keys && typeof o.limit === 'number' && typeof o.capacity === 'number') this.#bucket = this.#bucketOf(o.limit, o.capacity)
  }

  // Each limiter has buckets of its own, which are those of the limiter that was made as its
  // equal, in the same order, by another process.
  #defaultName() {
    const {limit, capacity, windowMs} = this.#o
    const shown = (v) => (typeof v === 'number' ? v : 'f')
    const numbers = `${shown(capacity)}/${shown(limit)}/${windowMs}`
    const alike = (made.get(this.client) ?? made.set(this.client, new Map()).get(this.client)).get(numbers) ?? 0
    // Made for every request, they would all let it pass: then they are one.
    const nth = Math.min(alike + 1, mostAlike)
    made.get(this.client).set(numbers, nth)
    if (alike === mostAlike) this.client.warn('limiters', `more than ${mostAlike} limiters of ${numbers}: make them once and not for each request, or give them a name; the last ones share their buckets`)
    return nth === 1 ? numbers : `${numbers}/${nth}`
  }

  #bucketOf(count, burst) {
    return new Bucket(this.#name, count, burst, this.#o.windowMs / 1000)
  }

  // What clients are told that the bucket is called.
  get #name() {
    return this.#o.name ?? 'throttle'
  }

  /** Decides on a request and sets its fields; null if it is skipped. */
  async decide(req, res) {
    const o = this.#o
    if (o.skip && (await o.skip(req, res))) return null
    const cost = typeof o.weight === 'function' ? await o.weight(req, res) : o.weight
    const who = this.#identify(req, res)
    const value = typeof who === 'string' ? who : await who // who needs not wait does not
    const bucket = this.#keys && (this.#bucket ?? (await this.#bucketFor(req, res)))
    let decision
    try {
      decision = bucket ? await this.#throttle(bucket, value, cost) : await this.#ask(req, res, value, cost)
    } catch (error) {
      if (typeof o.onStoreError !== 'function' || !isUndecided(error)) throw error
      decision = this.client.withoutServer(error, await policyOf(o.onStoreError, error, req, res))
    }
    tell(o, req, res, decision, bucket, value)
    if (decision.ticket !== null) this.client.hold(this.#giveBack(decision, req, res))
    if (decision.details?.delayMs > 0) await delay(decision.details.delayMs) // of a leaky bucket, for a reservation
    return decision
  }

  // Who is limited: a string, or a promise of one.
  #identify(req, res) {
    const {identifier, ipv6Subnet} = this.#o
    if (identifier) return whenThere(identifier(req, res), identity)
    if (this.#mindsProxies) this.#mindProxies(req)
    const address = addressOf(req)
    return whenThere(typeof ipv6Subnet === 'function' ? ipv6Subnet(req, res) : ipv6Subnet, (subnet) => network(address, subnet))
  }

  // Warns once where all users are the proxy in front, or are whoever they say.
  #mindProxies(req) {
    const trust = req.app?.get?.('trust proxy')
    const forwarded = req.headers['x-forwarded-for'] !== undefined
    if (trust === true) this.client.warn('proxies', "trust proxy is true: every client chooses its own address; set it to the addresses of your proxies")
    else if (forwarded && trust === false) this.client.warn('proxies', 'X-Forwarded-For came and trust proxy of Express is not set: behind a proxy all users are one; set trust proxy to its address')
    else return
    this.#mindsProxies = false
  }

  async #bucketFor(req, res) {
    const {limit, capacity} = this.#o
    const count = typeof limit === 'function' ? await limit(req, res) : limit
    if (capacity === limit || count === 0) return this.#bucketOf(count, count)
    return this.#bucketOf(count, typeof capacity === 'function' ? await capacity(req, res) : capacity)
  }

  #throttle({burst, count, period}, value, cost) {
    if (count === 0) return nothing(this.#o.windowMs)
    return this.client.throttle(this.#keys.of(this.#kind, value), {burst, count, period, cost, onError: this.#onError})
  }

  async #ask(req, res, value, cost) {
    const {application, operation, plan, attributes, maxWait, standardHeaders} = this.#o
    const request = {application, subject: subject(value), cost, maxWait, fields: standardHeaders === 'draft-8', onError: this.#onError}
    if (operation) request.operation = typeof operation === 'function' ? await operation(req, res) : operation
    else Object.assign(request, described(req))
    if (plan) request.plan = typeof plan === 'function' ? await plan(req, res) : plan
    if (attributes) request.attributes = await attributes(req, res)
    const address = addressOf(req)
    const ip = address && ipKeyGenerator(address, false)
    if (ip) request.ip = ip
    const ask = () => (this.#refunds ? this.client.reserve(request) : this.client.take(request))
    if (maxWait === undefined) return ask()
    const gone = new AbortController() // who leaves does not stand in line any more
    request.signal = gone.signal
    const withdraw = onceClosed(req, res, () => gone.abort())
    try {
      return await ask()
    } finally {
      withdraw()
    }
  }

  // Keeps what the decision holds as long as the response lasts, and ends it then: slots, or
  // a reservation, which is given back or kept by how the response was.
  async #giveBack(decision, req, res) {
    const {ticket} = decision
    const letGo = this.client.keepTicket(ticket, renewalOf(decision))
    await new Promise((resolve) => onceClosed(req, res, resolve))
    letGo()
    const charged = this.#refunds && !(await this.#isRefunded(req, res))
    await this.client.endTicket(charged ? 'settle' : 'release', ticket)
  }

  // Where requestWasSuccessful does not say it, the request stays charged.
  async #isRefunded(req, res) {
    const {skipFailedRequests, skipSuccessfulRequests} = this.#o
    try {
      const successful = res.writableFinished && (await this.#wasSuccessful(req, res))
      return successful ? skipSuccessfulRequests : skipFailedRequests
    } catch (error) {
      this.client.warn('requestWasSuccessful', `requestWasSuccessful failed, and the request stays charged: ${asError(error).message}`)
      return false
    }
  }

  async #wasSuccessful(req, res) {
    const verdict = this.#o.requestWasSuccessful(req, res)
    if (typeof verdict?.then !== 'function') return verdict
    const late = new AbortController()
    const timeout = delay(longestVerdict, undefined, {ref: false, signal: late.signal}).then(() => {
      throw new Error(`no answer within ${longestVerdict} ms`)
    })
    try {
      return await Promise.race([verdict, timeout])
    } finally {
      late.abort()
      timeout.catch(() => {})
    }
  }

  /** Lets a request pass, or answers it. */
  async act(decision, req, res, next) {
    if (decision === null) return next()
    if (decision.allowed) {
      if (!isClosed(req, res)) next() // who has left is not served
      return
    }
    const {onLimitExceeded, handler, message, statusCode} = this.#o
    if (decision.error) return sendProblem(res, decision, [])
    const begun = res.headersSent // by the program
    if (onLimitExceeded) {
      await onLimitExceeded(req, res, decision)
      if (res.headersSent && !begun) return
    }
    const status = statusCode ?? problemOf(decision).status
    if (handler) {
      await handler(req, res, next, {...this.#o, message: message ?? 'Too many requests', statusCode: status})
      return
    }
    const said = typeof message === 'function' ? await message(req, res) : message
    if (res.headersSent && !begun) return // it has answered itself
    if (said === undefined) sendProblem(res, decision, this.#keys ? [this.#name] : violated(decision), status)
    else sendMessage(res, said, status)
  }
}

// What becomes of an error in place of a decision or an answer.
function fail(error, req, res, next) {
  if (error instanceof BadTarget) return sendBadTarget(res, error)
  // It has left, so nobody knows its address or waits for its turn.
  if (isClosed(req, res) && (error?.code === 'no_address' || error?.code === 'aborted')) return
  next(asError(error))
}

// To frameworks no error, and 'route' to Express, is that the request may pass.
const asError = (reason) => (reason instanceof Error || types.isNativeError(reason) ? reason : new Error(`a function of rateLimit threw what is no error: ${inspect(reason, {depth: 0, customInspect: false}).slice(0, 128)}`, {cause: reason}))

async function policyOf(onStoreError, error, req, res) {
  const policy = await onStoreError(error, req, res)
  if (policy !== 'open' && policy !== 'closed') throw new TypeError(`onStoreError: gave ${String(policy)}: it must give 'open' or 'closed'`)
  return policy
}

// Goes on with a value: at once, or when it comes.
const whenThere = (value, go) => (typeof value?.then === 'function' ? Promise.resolve(value).then(go) : go(value))

function identity(value) {
  if (typeof value === 'string' && value !== '') return value
  if (typeof value === 'number' && Number.isFinite(value)) return String(value)
  throw new TypeError(`identifier: gave ${typeof value === 'string' ? 'an empty string' : String(value)} for this request: it must give a string that is not empty, or a number`)
}

function network(address, subnet) {
  const value = address && ipKeyGenerator(address, subnet)
  if (value) return value
  throw new HeadgateError('no_address', `the client's address is ${JSON.stringify(address ?? null)}: where there is none, say with identifier who is limited; behind a proxy set trust proxy of Express`)
}

// The limits that refuse.
const violated = (decision) => decision.limits.filter((l) => !l.allowed && l.mode === 'enforce').map((l) => l.id)

// What Express makes of the connection and, where it trusts proxies, of their fields.
const addressOf = (req) => req.ip ?? req.socket?.remoteAddress

function described(req) {
  const {host} = req.headers
  return {method: req.method, path: targetOf(req), ...(host && {host})}
}

// Tells the program and the client how things stand.
function tell(o, req, res, decision, bucket, key) {
  const {limit, remaining, resetMs} = decision
  req[o.requestPropertyName] = {
    limit,
    used: limit === null ? null : limit - remaining,
    remaining,
    resetTime: resetMs === null ? null : new Date(Date.now() + resetMs),
    key
  }
  req.rateLimitInfo = decision
  if (res.headersSent) return
  const {standardHeaders: style, legacyHeaders} = o
  if (style === 'draft-8') setFields(res, decision, bucket)
  const older = style && style !== 'draft-8'
  const it = older || legacyHeaders ? tightest(decision, bucket) : null
  if (it && older) setOlder(res, style, it)
  if (it && legacyHeaders) setLegacy(res, it, Date.now())
  if (decision.degraded !== null) res.setHeader('Headgate-Degraded', decision.degraded)
  if (!decision.allowed) setRefusal(res, decision)
}
