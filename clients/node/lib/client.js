import {setTimeout as delay} from 'node:timers/promises'
import {Breaker} from './breaker.js'
import {withoutServer} from './decision.js'
import {HeadgateError, isAbsence, isSilence, isUndecided, textOf} from './errors.js'
import {HTTPDoor} from './http.js'
import {readOptions} from './options.js'
import {readLimit, readRequest, readReset, readTicket} from './query.js'
import {RedisDoor} from './redis.js'
import {onceAborted} from './signals.js'
import {Waiting} from './waiting.js'

// Of each kind of trouble one line is logged in this time, in milliseconds.
const logEvery = 10_000

// What is no request for a decision rejects where there is no answer.
const throws = {onError: 'throw'}

// The calls whose answers are counted: they charge somebody.
const charging = new Set(['take', 'reserve', 'throttle'])

// The calls that are decided without the server where it does not answer.
const deciding = new Set([...charging, 'peek'])

// The calls that end tickets. They may be repeated, and are made even while the client closes.
const ending = new Set(['settle', 'release'])

// How a ticket is ended that could not be: after pauses of so many milliseconds, at first and
// at most; how long, if nobody knows when it runs out; and how many of them at one time.
const firstPause = 100
const longestPause = 5000
const usualTTL = 60_000
const maxTried = 10_000

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
    // Whether an answer that nobody has seen may bring a ticket that nobody else can have.
    this.mayHold = (kind === 'take' || kind === 'reserve') && query.id === undefined
    this.timer = null // of its own, where it may wait in line
    this.queuedMs = 0 // how long it waited for other calls until it was sent, Infinity if it was not
    this.withdraw = null // ends that a signal is followed
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

const aborted = (signal) => new HeadgateError('aborted', 'the caller gave it up', signal.reason)

/** A client of a Headgate server. What its methods do is described in index.d.ts. */
export class Headgate {
  #options
  #door
  #breaker
  #waiting
  #pending = 0
  #inLine = new Set() // the calls that may wait in line
  #held = 0 // tickets that limiters have still to end
  #trying = new Set() // the tickets that are to be ended until they are
  #closing = null
  #isClosed = false
  #drained = null
  #logged = new Map()
  #missed = 0 // calls that went without the server since it answered last
  #counts = {calls: 0, allowed: 0, refused: 0, failedOpen: 0, failedClosed: 0, timeouts: 0, errors: 0}

  constructor(options = {}) {
    this.#options = readOptions(options)
    this.#breaker = new Breaker(this.#options.breaker)
    this.#waiting = new Waiting(this.#options.timeout, (call) => this.#expired(call))
    const Door = this.#options.url?.protocol.startsWith('http') ? HTTPDoor : RedisDoor
    this.#door = new Door(this.#options, {
      reachable: () => this.#breaker.reachable(),
      trouble: (err) => this.warn('connection', err.message)
    })
  }

  get application() {
    return this.#options.application
  }

  /** Whether requests may wait in line. */
  get canWait() {
    return this.#door.refuses({maxWait: 1}) === undefined
  }

  take(request) {
    return this.#ask('take', () => readRequest(request, this.application), request)
  }

  peek(request) {
    return this.#ask('peek', () => readRequest(request, this.application), request)
  }

  reserve(request) {
    return this.#ask('reserve', () => readRequest(request, this.application, true), request)
  }

  settle(ticket, real = {}) {
    return this.#end('settle', ticket, real)
  }

  renew(ticket, hold = {}) {
    return this.#ask('renew', () => readTicket('renew', ticket, hold), throws)
  }

  release(ticket) {
    return this.#end('release', ticket)
  }

  consumeTokens(subject, n, operation) {
    return this.take({subject, cost: n, operation})
  }

  throttle(key, limit) {
    return this.#ask('throttle', () => readLimit(key, limit), limit)
  }

  reset(what) {
    return this.#ask('reset', () => readReset(what, this.application), throws)
  }

  ping() {
    return this.#ask('ping', () => ({}), throws)
  }

  stats() {
    return {...this.#counts, pending: this.#pending, breaker: this.#breaker.state, connected: this.#door.connected}
  }

  async close() {
    this.#closing ??= this.#close()
    return this.#closing
  }

  async #close() {
    // Timers go before sockets: answers that are here are to be read first.
    const timer = setTimeout(() => setImmediate(() => this.#endAll()), this.#options.timeout)
    await new Promise((resolve) => {
      this.#drained = resolve
      this.#drain()
    })
    clearTimeout(timer)
    this.#isClosed = true
    this.#waiting.stop()
    this.#door.close()
  }

  #endAll() {
    this.#isClosed = true
    this.#waiting.expire()
    for (const call of this.#inLine) this.#expired(call)
    this.#drain()
  }

  #drain() {
    if (this.#pending === 0 && (this.#held === 0 || this.#isClosed)) this.#drained?.()
  }

  /** Has close wait for a ticket that is to be ended. @param {Promise<void>} work does not reject */
  async hold(work) {
    this.#held++
    await work
    this.#held--
    this.#drain()
  }

  // The caller learns that the server does not answer, and need not try again.
  #end(kind, ticket, real = {}) {
    const ended = this.#ask(kind, () => readTicket(kind, ticket, real), throws)
    ended.catch((error) => {
      if (isUndecided(error) && !this.#trying.has(ticket)) this.hold(this.endTicket(kind, ticket, usualTTL, real))
    })
    return ended
  }

  /**
   * Ends a ticket, and tries again where the server does not answer, until it has run out. It
   * does not reject.
   *
   * @param {'settle' | 'release'} kind
   * @param {string} ticket
   * @param {number} [ttl] in milliseconds
   * @param {object} [real] costs, for settle
   */
  async endTicket(kind, ticket, ttl = usualTTL, real) {
    this.#trying.add(ticket)
    await this.#tryToEnd(kind, ticket, performance.now() + ttl, real)
    this.#trying.delete(ticket)
  }

  async #tryToEnd(kind, ticket, until, real) {
    for (let pause = firstPause; ; pause = Math.min(2 * pause, longestPause)) {
      try {
        await this[kind](ticket, real)
        return
      } catch (error) {
        if (!isUndecided(error) || this.#isClosed || this.#trying.size > maxTried || performance.now() + pause > until) {
          this.warn('ticket', `a ticket was not ended and stays charged until it runs out: ${error.message}`)
          return
        }
      }
      await delay(pause * (0.75 + Math.random() / 4), undefined, {ref: false})
    }
  }

  /**
   * Renews a ticket, until what it returns is called or nothing is held any more.
   *
   * @param {string} ticket
   * @param {number} every in milliseconds
   */
  keepTicket(ticket, every) {
    let isOver = false
    let timer
    const wait = () => (timer = setTimeout(renew, every).unref())
    const renew = async () => {
      try {
        const {details, limits} = await this.renew(ticket)
        if (!details.held && !isOver) {
          this.warn('renewal', 'slots were not held any more: their TTL was over, or the store or policy has lost them')
          if (!limits.some((l) => l.allowed)) return
        }
      } catch (error) {
        if (error.code === 'client_closed') return
        if (!isOver) this.warn('renewal', `slots were not renewed: ${error.message}`)
      }
      if (!isOver) wait()
    }
    wait()
    return () => {
      isOver = true
      clearTimeout(timer)
    }
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

  // What read throws the promise rejects with.
  #ask(kind, read, given) {
    return new Promise((resolve, reject) => {
      const query = read()
      if (this.#isClosed || (this.#closing && !ending.has(kind))) throw new HeadgateError('client_closed', 'this client was closed')
      const call = new Call(kind, query, given.onError ?? this.#options.onError, resolve, reject, this.#ended)
      this.#counts.calls++
      const refused = this.#door.refuses(query)
      if (refused) return this.#fail(call, new HeadgateError('invalid_request', refused))
      if (given.signal?.aborted) return this.#fail(call, aborted(given.signal))
      if (this.#breaker.isOpen) {
        // A probe is made even if maxPending calls wait: it finds out that they wait in vain.
        const mayLook = kind === 'ping' || this.#breaker.probe(performance.now())
        // Who stands in line finds out too late, and everybody else would wait for it.
        call.isProbe = mayLook && !query.maxWait
        if (mayLook && !call.isProbe) this.ping().catch(() => {})
        if (!call.isProbe) return this.#fail(call, new HeadgateError('breaker_open', 'the server did not answer, and is not asked for a while', this.#door.lastError))
      } else if (this.#door.load >= this.#options.maxPending) {
        return this.#fail(call, new HeadgateError('too_many_pending', `${this.#door.load} calls wait for an answer (maxPending)`))
      }
      this.#pending++
      if (query.maxWait > 0) {
        call.timer = setTimeout(() => this.#expired(call), this.#options.timeout + query.maxWait)
        this.#inLine.add(call)
      } else {
        this.#waiting.add(call)
      }
      if (given.signal) this.#follow(call, given.signal)
      try {
        this.#door.send(call)
      } catch (err) {
        this.#unasked(call, new HeadgateError('invalid_request', `this cannot be sent: ${err.message}`, err))
      }
    })
  }

  #follow(call, signal) {
    call.withdraw = onceAborted(signal, () => {
      this.#door.cancel(call)
      this.#unasked(call, aborted(signal))
    })
  }

  #finish(call) {
    call.isOver = true
    this.#pending--
    call.withdraw?.()
    if (!call.timer) return this.#waiting.remove(call)
    clearTimeout(call.timer)
    this.#inLine.delete(call)
  }

  // A call has ended by us, which says nothing of the server.
  #unasked(call, error) {
    if (call.isOver) return
    this.#finish(call)
    if (call.isProbe) this.#breaker.failed(performance.now(), true)
    this.#fail(call, error)
    this.#drain()
  }

  // A call has ended: by an answer, an error, or as time is up. Of what comes later only a
  // ticket matters, which nobody else knows.
  #ended = (call, error, answer) => {
    if (call.isOver) {
      if (call.mayHold && answer?.ticket) this.hold(this.endTicket('release', answer.ticket, call.query.ttl))
      return
    }
    this.#finish(call)
    if (error && isSilence(error)) this.#silent(call)
    else this.#answers()
    if (error) {
      this.#fail(call, error)
    } else {
      if (charging.has(call.kind)) this.#counts[answer.allowed ? 'allowed' : 'refused']++
      call.resolve(answer)
    }
    this.#drain()
  }

  #answers() {
    this.#breaker.succeeded()
    if (this.#missed === 0 || !this.#isDue('back')) return
    this.#options.logger.info(`headgate: the server answers again; ${this.#missed === 1 ? '1 call was' : `${this.#missed} calls were`} decided without it`)
    this.#missed = 0
  }

  #expired(call) {
    this.#counts.timeouts++
    this.#door.drop(call)
    // The server had less time than it may take.
    if (call.queuedMs > this.#options.timeout) return this.#unasked(call, new HeadgateError('too_many_pending', 'other calls took all connections for too long'))
    const {lastError} = this.#door
    const why = lastError ? `: ${textOf(lastError)}` : ''
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
    if (deciding.has(call.kind) && isAbsence(error)) this.#missed++
    if (!isUndecided(error) || call.onError === 'throw') {
      this.#counts.errors++
      call.reject(error)
      return
    }
    call.resolve(this.withoutServer(error, call.onError))
    this.warn(error.code, `no decision (${error.message}): requests ${call.onError === 'open' ? 'pass' : 'are refused'} (onError)`)
  }

  /** Logs trouble: of a kind one line at a time. */
  warn(kind, text) {
    const more = this.#logged.get(kind)?.more ?? 0
    if (this.#isDue(kind)) this.#options.logger.warn(`headgate: ${text}${more > 0 ? ` (and ${more} times since the last such line)` : ''}`)
  }

  // Whether a line of this kind may be logged, which is then to be done.
  #isDue(kind) {
    const now = performance.now()
    const last = this.#logged.get(kind)
    if (last && now - last.at < logEvery) {
      last.more++
      return false
    }
    this.#logged.set(kind, {at: now, more: 0})
    return true
  }
}
