import {setTimeout as delay} from 'node:timers/promises'
import {HeadgateError, isUndecided} from './errors.js'
import {items, quote, setLegacy, setStandard} from './fields.js'
import {ipKeyGenerator, Keys, subject} from './key.js'
import {readLimiterOptions} from './limiteroptions.js'
import {problemOf, sendMessage, sendProblem, setRefusal} from './refusal.js'

/** Makes middleware that limits requests. What its options do is described in index.d.ts. */
export function rateLimit(options = {}) {
  const limiter = new Limiter(readLimiterOptions(options))
  const middleware = (req, res, next) => {
    limiter.decide(req, res).then(
      (decision) => (decision === null || decision.allowed ? next() : limiter.refuse(decision, req, res, next)),
      next
    )
  }
  middleware.client = limiter.client
  return middleware
}

// What clients send as path: at most as long as the server takes.
const longestPath = 8192

// How many limiters there are of the same numbers, by client; of more the last ones are one.
const made = new WeakMap()
const mostAlike = 100

class Limiter {
  #o
  #mindsProxies // until it has warned of a proxy that nobody minds
  #keys // of buckets; null where the policy is asked
  #bucket = null // where its numbers do not depend on the request
  #quoted // the name in RateLimit
  #refunds
  #onError

  constructor(o) {
    this.#o = o
    this.client = o.client
    this.#quoted = quote(o.name ?? 'throttle')
    this.#refunds = o.skipFailedRequests || o.skipSuccessfulRequests
    this.#onError = typeof o.onStoreError === 'function' ? 'throw' : o.onStoreError
    this.#keys = o.application === undefined ? new Keys(o.client.application, o.name ?? this.#defaultName()) : null
    this.#mindsProxies = o.identifier === undefined
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
    const period = this.#o.windowMs / 1000
    return {quoted: this.#quoted, burst, count, period, window: Math.ceil((burst * period) / count)}
  }

  /** Decides on a request and sets its fields; null if it is skipped. */
  async decide(req, res) {
    const o = this.#o
    if (o.skip && (await o.skip(req, res))) return null
    const cost = typeof o.weight === 'function' ? await o.weight(req, res) : o.weight
    const [kind, value] = await this.#identify(req, res)
    const bucket = this.#keys && (this.#bucket ?? (await this.#bucketFor(req, res)))
    let decision
    try {
      decision = bucket ? await this.#throttle(bucket, kind, value, cost) : await this.#ask(req, res, value, cost)
    } catch (error) {
      if (typeof o.onStoreError !== 'function' || !isUndecided(error)) throw error
      decision = this.client.withoutServer(error, await policyOf(o.onStoreError, error, req, res))
    }
    tell(o, req, res, decision, bucket, value)
    if (decision.ticket !== null) this.#giveBack(decision.ticket, req, res)
    if (decision.details?.delayMs > 0) await delay(decision.details.delayMs) // of a leaky bucket, for a reservation
    return decision
  }

  async #identify(req, res) {
    const {identifier, ipv6Subnet} = this.#o
    if (identifier) {
      const value = await identifier(req, res)
      if (typeof value === 'number' && Number.isFinite(value)) return ['id', String(value)]
      if (typeof value === 'string' && value !== '') return ['id', value]
      throw new TypeError(`identifier: gave ${typeof value === 'string' ? 'an empty string' : String(value)} for this request: it must give a string that is not empty, or a number`)
    }
    const address = addressOf(req)
    if (this.#mindsProxies) this.#mindProxies(req)
    const subnet = typeof ipv6Subnet === 'function' ? await ipv6Subnet(req, res) : ipv6Subnet
    const value = address && ipKeyGenerator(address, subnet)
    if (value) return ['ip', value]
    throw new HeadgateError('no_address', `the client's address is ${JSON.stringify(address ?? null)}: where there is none, say with identifier who is limited; behind a proxy set trust proxy of Express`)
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
    if (capacity === limit) return this.#bucketOf(count, count)
    return this.#bucketOf(count, typeof capacity === 'function' ? await capacity(req, res) : capacity)
  }

  #throttle({burst, count, period}, kind, value, cost) {
    return this.client.throttle(this.#keys.of(kind, value), {burst, count, period, cost, onError: this.#onError})
  }

  async #ask(req, res, value, cost) {
    const {application, operation, plan, attributes, maxWait} = this.#o
    const request = {application, subject: subject(value), cost, maxWait, onError: this.#onError}
    if (operation) request.operation = typeof operation === 'function' ? await operation(req, res) : operation
    else describe(req, request)
    if (plan) request.plan = typeof plan === 'function' ? await plan(req, res) : plan
    if (attributes) request.attributes = await attributes(req, res)
    const address = addressOf(req)
    const ip = address && ipKeyGenerator(address, false)
    if (ip) request.ip = ip
    return this.#refunds ? this.client.reserve(request) : this.client.take(request)
  }

  // Ends what the decision holds: slots when the response has ended, or a reservation,
  // which is given back or kept by how the response was.
  #giveBack(ticket, req, res) {
    const end = async () => {
      try {
        if (this.#refunds && !(await this.#isRefunded(req, res))) await this.client.settle(ticket)
        else await this.client.release(ticket)
      } catch (error) {
        this.client.warn('ticket', `a ticket was not ended and stays charged until it runs out: ${error.message}`)
      }
    }
    if (res.closed) end() // the client has left meanwhile
    else res.once('close', end)
  }

  async #isRefunded(req, res) {
    const {requestWasSuccessful, skipFailedRequests, skipSuccessfulRequests} = this.#o
    const successful = res.writableFinished && (await requestWasSuccessful(req, res))
    return successful ? skipSuccessfulRequests : skipFailedRequests
  }

  /** Answers a request that may not pass. */
  refuse(decision, req, res, next) {
    this.#answer(decision, req, res, next).catch(next)
  }

  async #answer(decision, req, res, next) {
    const {onLimitExceeded, handler, message, statusCode} = this.#o
    if (decision.error) return sendProblem(res, decision)
    if (onLimitExceeded) {
      await onLimitExceeded(req, res, decision)
      if (res.headersSent) return
    }
    const status = statusCode ?? problemOf(decision).status
    if (handler) {
      res.statusCode = status
      await handler(req, res, next, {...this.#o, message: message ?? 'Too many requests', statusCode: status})
      return
    }
    const said = typeof message === 'function' ? await message(req, res) : message
    if (res.headersSent) return
    if (said === undefined) sendProblem(res, decision, status)
    else sendMessage(res, said, status)
  }
}

async function policyOf(onStoreError, error, req, res) {
  const policy = await onStoreError(error, req, res)
  if (policy !== 'open' && policy !== 'closed') throw new TypeError(`onStoreError: gave ${String(policy)}: it must give 'open' or 'closed'`)
  return policy
}

// What Express makes of the connection and, where it trusts proxies, of their fields.
const addressOf = (req) => req.ip ?? req.socket?.remoteAddress

function describe(req, request) {
  request.method = req.method
  if (req.headers.host) request.host = req.headers.host
  let path = req.originalUrl ?? req.url
  if (!path.startsWith('/')) path = URL.canParse(path) ? new URL(path).pathname : `/${path}` // a proxy's form, or *
  request.path = path.length <= longestPath ? path : path.split('?', 1)[0]
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
  if (o.standardHeaders || o.legacyHeaders) {
    const list = items(decision, bucket)
    if (o.standardHeaders) setStandard(res, o.standardHeaders, list)
    if (o.legacyHeaders) setLegacy(res, list, Date.now())
  }
  if (decision.degraded !== null) res.setHeader('Headgate-Degraded', decision.degraded)
  if (!decision.allowed) setRefusal(res, decision)
}
