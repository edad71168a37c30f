import http from 'node:http'
import https from 'node:https'
import {fromServer} from './decision.js'
import {HeadgateError, textOf} from './errors.js'

// The longest answer that is read, in bytes.
const maxAnswer = 1 << 20

// How many connections are kept, and how many requests go at one time: those that are
// answered at once, and those that may wait in line.
const maxSockets = 64
const maxWaiting = 256

// How many answers are awaited that come too late, and how long, in milliseconds: they may
// bring tickets.
const maxLate = 256
const lateFor = 30_000

/** Problems whose names are not those of our codes. */
const codes = {idempotency_key_reused: 'conflict', rate_limited: 'unauthorized', policy_unfit: 'internal', records_unavailable: 'unavailable', not_ready: 'unavailable'}
const known = new Set(['invalid_request', 'unauthorized', 'forbidden', 'not_found', 'unavailable', 'overloaded', 'closed', 'internal'])

// What begins a reply of the Redis protocol.
const redisReply = /^[-+:$*%_#]/

function toError(status, body) {
  let problem
  try {
    problem = JSON.parse(body)
  } catch {
    // Not ours: something stands between us and the server.
  }
  const name = String(problem?.type ?? '').replace('urn:headgate:problem:', '')
  const code = codes[name] ?? (known.has(name) ? name : status >= 500 ? 'internal' : 'invalid_request')
  return new HeadgateError(code, problem?.detail ?? `the server answered ${status}`)
}

/** The HTTP door. It has the methods of RedisDoor. */
export class HTTPDoor {
  #owner
  #request
  #where
  #agent
  #line // the agent of calls that may wait in line: they must not hold up others
  #headers
  #calls = new Map() // and their requests
  #late = new Map() // calls that nobody waits for, and the timers that end them
  #lastError = null
  #address // such as 127.0.0.1:8080, or the path of a socket
  #hasAnswered = false

  constructor({url, token, tls}, owner) {
    this.#owner = owner
    const secure = url.protocol.startsWith('https')
    this.#request = secure ? https.request : http.request
    const {Agent} = secure ? https : http
    this.#agent = new Agent({keepAlive: true, maxSockets, scheduling: 'lifo'})
    this.#line = new Agent({keepAlive: true, maxSockets: maxWaiting, scheduling: 'lifo'})
    this.#where = url.protocol.endsWith('+unix:')
      ? {socketPath: decodeURIComponent(url.pathname)}
      : {host: url.hostname.replace(/^\[|\]$/g, ''), port: url.port || (secure ? 443 : 80), ...tls}
    const {socketPath, host, port} = this.#where
    this.#address = socketPath ?? `${host.includes(':') ? `[${host}]` : host}:${port}`
    this.#headers = token === undefined ? {} : {authorization: `Bearer ${token}`}
  }

  get load() {
    return this.#calls.size + this.#late.size
  }

  get connected() {
    return this.#lastError === null
  }

  get lastError() {
    return this.#lastError
  }

  refuses() {
    return undefined
  }

  send(call) {
    const {method, path, body} = message(call)
    const text = body && JSON.stringify(body)
    const headers = text ? {...this.#headers, 'content-type': 'application/json', 'content-length': Buffer.byteLength(text)} : this.#headers
    const req = this.#request({...this.#where, method, path, headers, agent: call.query.maxWait > 0 ? this.#line : this.#agent})
    this.#calls.set(call, req)
    const began = performance.now()
    call.queuedMs = Infinity
    req.on('socket', () => (call.queuedMs = performance.now() - began))
    req.on('error', (err) => this.#lost(call, err))
    req.on('response', (res) => this.#read(call, res))
    req.end(text)
  }

  /** Nobody waits for this call any more. What may bring a ticket is awaited all the same. */
  drop(call) {
    const req = this.#calls.get(call)
    if (!req) return
    this.#calls.delete(call)
    const isSent = req.socket && !req.socket.connecting
    if (!isSent || !call.mayHold || this.#late.size >= maxLate) {
      req.destroy()
      return
    }
    this.#late.set(call, setTimeout(() => req.destroy(), lateFor).unref())
    this.#widen()
  }

  /**
   * The caller does not want it any more. The server learns it by the end of what we send,
   * and we what it has decided before.
   */
  cancel(call) {
    if (call.query.maxWait > 0) this.#calls.get(call)?.socket?.end()
    this.drop(call)
  }

  // The connections of late answers are not those of calls.
  #widen() {
    this.#agent.maxSockets = maxSockets + this.#late.size
    this.#line.maxSockets = maxWaiting + this.#late.size
  }

  // Whether a call ends now that somebody waits for.
  #ends(call) {
    clearTimeout(this.#late.get(call))
    if (this.#late.delete(call)) this.#widen()
    return this.#calls.delete(call)
  }

  #lost(call, err) {
    if (!this.#ends(call)) return // given up, or answered
    this.#lastError = err
    const error = this.#meaning(err)
    this.#owner.trouble(error)
    call.failed(error)
  }

  #meaning(err) {
    const redis = `write url: ${this.#where.socketPath ? 'unix' : 'redis'}://${this.#address}`
    if (err.rawPacket && redisReply.test(err.rawPacket.toString('latin1', 0, 1))) {
      return new HeadgateError('invalid_request', `a server of the Redis protocol answers at ${this.#address}: ${redis} if it is Headgate's Redis door, or the port of its HTTP door, which is 8080 unless --http says otherwise`, err)
    }
    // A Redis door closes connections that speak HTTP. This may also be a server that stops.
    if (err.code === 'ECONNRESET' && !this.#hasAnswered) return new HeadgateError('disconnected', `the server at ${this.#address} hangs up on HTTP, as a Redis door does: ${redis} if it is one`, err)
    return new HeadgateError('disconnected', `no answer from the server: ${textOf(err)}`, err)
  }

  #read(call, res) {
    const parts = []
    let size = 0
    res.on('error', (err) => this.#lost(call, err))
    res.on('data', (part) => {
      size += part.length
      if (size > maxAnswer) res.destroy(new Error(`an answer of more than ${maxAnswer} bytes`))
      else parts.push(part)
    })
    res.on('end', () => {
      const isLate = this.#late.has(call)
      if (!this.#ends(call) && !isLate) return
      this.#lastError = null
      this.#hasAnswered = true
      const body = Buffer.concat(parts).toString()
      if (res.statusCode < 200 || res.statusCode > 299) return call.failed(toError(res.statusCode, body))
      let answer
      try {
        answer = decode(call.kind, body)
      } catch (err) {
        return call.failed(new HeadgateError('internal', 'this is no answer of Headgate: is the url right?', err))
      }
      call.answered(answer)
    })
  }

  restart() {
    // Calls that come do not use the connections of those that are not answered.
  }

  close() {
    this.#agent.destroy()
    this.#line.destroy()
  }
}

function message({kind, query}) {
  switch (kind) {
    case 'throttle': {
      const {key, burst, count, period, cost} = query
      return {method: 'POST', path: '/v1/throttle', body: {key, rate: `${count}/${Math.round(period * 1000)}ms`, burst, cost}}
    }
    case 'ping':
      return {method: 'GET', path: '/healthz'}
    case 'reset': {
      const path = `/v1/applications/${encodeURIComponent(query.application)}/subject/reset?subject=${encodeURIComponent(query.subject)}`
      return {method: 'POST', path, body: {limits: query.limits.length > 0 ? query.limits : 'all'}}
    }
    case 'settle':
      return {method: 'POST', path: '/v1/settle', body: {ticket: query.ticket, cost: query.cost, costs: query.units}}
    case 'renew':
      return {method: 'POST', path: '/v1/renew', body: {ticket: query.ticket, ttl_ms: query.ttl}}
    case 'release':
      return {method: 'POST', path: '/v1/release', body: {ticket: query.ticket}}
    default:
      return {method: 'POST', path: `/v1/${kind}`, body: request(query)}
  }
}

function request(q) {
  const body = {application: q.application, operation: q.operation, subject: q.subject, cost: q.cost, costs: q.units, plan: q.plan, idempotency_key: q.id, attributes: q.attributes, max_wait_ms: q.maxWait ?? 0, ttl_ms: q.ttl, fields: q.fields}
  if (q.method || q.path || q.host || q.ip || q.headers) body.request = {method: q.method, path: q.path, host: q.host, ip: q.ip, headers: q.headers}
  return body
}

function decode(kind, body) {
  if (kind === 'ping') return undefined
  const o = JSON.parse(body)
  if (kind === 'reset') return {application: o.application, subject: o.subject, limits: o.limits.map((l) => l.id)}
  if (o.candidate) o.candidate = {allowed: o.candidate.allowed, reason: o.candidate.reason}
  return fromServer(o)
}
