import {Breaker} from './breaker.js'
import {withoutServer} from './decision.js'
import {HeadgateError, isSilence, isUndecided} from './errors.js'
import {HTTPDoor} from './http.js'
import {readOptions} from './options.js'
import {readLimit, readRequest, readReset, readTicket} from './query.js'
import {RedisDoor} from './redis.js'
import {Waiting} from './waiting.js'

// Of each kind of trouble one line is logged in this time, in milliseconds.
const logEvery = 10_000

// The calls whose answers are counted: they charge somebody.
const charging = new Set(['take', 'reserve', 'throttle'])

/** One question on its way. A door ends it by one of its methods. */
class Call {
  constructor(kind, query, onError, resolve, reject, ended) {
    this.kind = kind
    this.query = query
    this.onError = onError
    this.resolve = resolve
    this.reject = reject
    this.ended = ended
    this.isProbe = this.isOver = false
    this.timer = null // of its own, where it may wait in line
    this.deadline = 0
    this.next = this.prev = null
  }

  answered(answer) {
    this.ended(this, null, answer)
  }

  failed(error) {
    this.ended(this, error, null)
  }
}

/** A client of a Headgate server. What its methods do is described in index.d.ts. */
export class Headgate {
  #options
  #door
  #breaker
  #waiting
  #pending = 0
  #closing = null
  #drained = null
  #logged = new Map()
  #counts = {calls: 0, allowed: 0, refused: 0, failedOpen: 0, failedClosed: 0, timeouts: 0, errors: 0}

  constructor(options = {}) {
    this.#options = readOptions(options)
    this.#breaker = new Breaker(this.#options.breaker)
    this.#waiting = new Waiting(this.#options.timeout, (call) => this.#expired(call))
    const Door = this.#options.url?.protocol.startsWith('http') ? HTTPDoor : RedisDoor
    this.#door = new Door(this.#options, {
      reachable: () => this.#breaker.reachable(),
      trouble: (err) => this.warn('connection', `the connection to the server: ${err.message || err.code}`)
    })
  }

  get application() {
    return this.#options.application
  }

  /** Whether requests may wait in line. */
  get canWait() {
    return this.#door.refuses({maxWait: 1}) === undefined
  }

  async take(request) {
    return this.#ask('take', readRequest(request, this.application), request.onError)
  }

  async peek(request) {
    return this.#ask('peek', readRequest(request, this.application), request.onError)
  }

  async reserve(request) {
    return this.#ask('reserve', readRequest(request, this.application, true), request.onError)
  }

  async settle(ticket, real = {}) {
    return this.#ask('settle', readTicket('settle', ticket, real), 'throw')
  }

  async renew(ticket, hold = {}) {
    return this.#ask('renew', readTicket('renew', ticket, hold), 'throw')
  }

  async release(ticket) {
    return this.#ask('release', readTicket('release', ticket, {}), 'throw')
  }

  async consumeTokens(subject, n, operation) {
    return this.take({subject, cost: n, operation})
  }

  async throttle(key, limit) {
    return this.#ask('throttle', readLimit(key, limit), limit.onError)
  }

  async reset(what) {
    return this.#ask('reset', readReset(what, this.application), 'throw')
  }

  async ping() {
    return this.#ask('ping', {}, 'throw')
  }

  stats() {
    return {...this.#counts, pending: this.#pending, breaker: this.#breaker.state, connected: this.#door.connected}
  }

  async close() {
    this.#closing ??= this.#close()
    return this.#closing
  }

  async #close() {
    if (this.#pending > 0) await new Promise((resolve) => (this.#drained = resolve))
    this.#waiting.stop()
    this.#door.close()
  }

  /** Decides without the server: 'open' or 'closed'. The middleware's own policy comes here too. */
  withoutServer(error, onError) {
    // A server that has no room for another key is there: to let requests pass would open
    // it to whoever floods it.
    const allowed = onError === 'open' && error.code !== 'overloaded'
    if (allowed) this.#counts.failedOpen++
    else this.#counts.failedClosed++
    return withoutServer(error, allowed, this.#options.breaker.cooldown)
  }

  #ask(kind, query, onError = this.#options.onError) {
    return new Promise((resolve, reject) => {
      if (this.#closing) throw new HeadgateError('client_closed', 'this client was closed')
      const call = new Call(kind, query, onError, resolve, reject, this.#ended)
      this.#counts.calls++
      const refused = this.#door.refuses(query)
      if (refused) return this.#fail(call, new HeadgateError('invalid_request', refused))
      if (this.#breaker.isOpen) {
        // A probe is made even if maxPending calls wait: it finds out that they wait in vain.
        call.isProbe = kind === 'ping' || this.#breaker.probe(performance.now())
        if (!call.isProbe) return this.#fail(call, new HeadgateError('breaker_open', 'the server did not answer, and is not asked for a while', this.#door.lastError))
      } else if (this.#door.load >= this.#options.maxPending) {
        return this.#fail(call, new HeadgateError('too_many_pending', `${this.#door.load} calls wait for an answer (maxPending)`))
      }
      this.#pending++
      if (query.maxWait > 0) call.timer = setTimeout(() => this.#expired(call), this.#options.timeout + query.maxWait)
      else this.#waiting.add(call)
      this.#door.send(call)
    })
  }

  // A call has ended: by an answer, an error, or as time is up. What comes later is ignored.
  #ended = (call, error, answer) => {
    if (call.isOver) return
    call.isOver = true
    this.#pending--
    if (call.timer) clearTimeout(call.timer)
    else this.#waiting.remove(call)
    if (error && isSilence(error)) this.#silent(call)
    else this.#breaker.succeeded()
    if (error) {
      this.#fail(call, error)
    } else {
      if (charging.has(call.kind)) this.#counts[answer.allowed ? 'allowed' : 'refused']++
      call.resolve(answer)
    }
    if (this.#pending === 0) this.#drained?.()
  }

  #expired(call) {
    this.#counts.timeouts++
    this.#door.drop(call)
    const {lastError} = this.#door
    const why = lastError ? `: ${lastError.message || lastError.code}` : ''
    const patience = this.#options.timeout + (call.query.maxWait ?? 0)
    this.#ended(call, new HeadgateError('timeout', `no answer within ${patience} ms${why}`, lastError ?? undefined), null)
  }

  #silent(call) {
    this.#breaker.failed(performance.now(), call.isProbe)
    // Nothing came since before the breaker opened: the connection may be dead.
    if (call.isProbe) this.#door.restart()
  }

  // What becomes of a call that the server did not decide.
  #fail(call, error) {
    if (!isUndecided(error) || call.onError === 'throw') {
      this.#counts.errors++
      call.reject(error)
      return
    }
    this.warn(error.code, `no decision (${error.message}): requests ${call.onError === 'open' ? 'pass' : 'are refused'} (onError)`)
    call.resolve(this.withoutServer(error, call.onError))
  }

  /** Logs trouble: of a kind one line at a time. */
  warn(kind, text) {
    const now = performance.now()
    const last = this.#logged.get(kind)
    if (last && now - last.at < logEvery) {
      last.more++
      return
    }
    const more = last?.more ? ` (and ${last.more} times since the last such line)` : ''
    this.#logged.set(kind, {at: now, more: 0})
    this.#options.logger.warn(`headgate: ${text}${more}`)
  }
}
