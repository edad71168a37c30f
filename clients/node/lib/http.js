import http from 'node:http'
import https from 'node:https'
import {fromServer} from './decision.js'
import {HeadgateError} from './errors.js'

// The longest answer that is read, in bytes.
const maxAnswer = 1 << 20

// How many connections are kept, and how many requests go at one time.
const maxSockets = 64

/** Problems whose names are not those of our codes. */
const codes = {idempotency_key_reused: 'conflict', rate_limited: 'unauthorized', policy_unfit: 'internal', records_unavailable: 'unavailable', not_ready: 'unavailable'}
const known = new Set(['invalid_request', 'unauthorized', 'forbidden', 'not_found', 'unavailable', 'overloaded', 'closed', 'internal'])

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
  #headers
  #calls = new Map() // and their requests
  #lastError = null

  constructor({url, token, tls}, owner) {
    this.#owner = owner
    const secure = url.protocol.startsWith('https')
    this.#request = secure ? https.request : http.request
    this.#agent = new (secure ? https : http).Agent({keepAlive: true, maxSockets, scheduling: 'lifo'})
    this.#where = url.protocol.endsWith('+unix:')
      ? {socketPath: decodeURIComponent(url.pathname)}
      : {host: url.hostname.replace(/^\[|\]$/g, ''), port: url.port || (secure ? 443 : 8080), ...tls}
    this.#headers = token === undefined ? {} : {authorization: `Bearer ${token}`}
  }

  get load() {
    return this.#calls.size
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
    const req = this.#request({...this.#where, method, path, headers, agent: this.#agent})
    this.#calls.set(call, req)
    req.on('error', (err) => this.#lost(call, err))
    req.on('response', (res) => this.#read(call, res))
    req.end(text)
  }

  drop(call) {
    const req = this.#calls.get(call)
    this.#calls.delete(call)
    req?.destroy()
  }

  #lost(call, err) {
    if (!this.#calls.delete(call)) return // given up, or answered
    this.#lastError = err
    this.#owner.trouble(err)
    call.failed(new HeadgateError('disconnected', `no answer from the server: ${err.message}`, err))
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
      if (!this.#calls.delete(call)) return
      this.#lastError = null
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
    // Each call that is given up closes its connection.
  }

  close() {
    this.#agent.destroy()
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
  const body = {application: q.application, operation: q.operation, subject: q.subject, cost: q.cost, costs: q.units, plan: q.plan, idempotency_key: q.id, attributes: q.attributes, max_wait_ms: q.maxWait ?? 0, ttl_ms: q.ttl}
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
