import {guarded} from './logger.js'
import {failurePolicy} from './query.js'

const defaults = {timeout: 100, onError: 'closed', breaker: {failures: 5, cooldown: 500}, application: 'default', maxPending: 10_000, logger: console}
const names = ['url', 'token', 'timeout', 'onError', 'breaker', 'application', 'maxPending', 'logger', 'redis', 'tls']
const protocols = ['redis:', 'rediss:', 'unix:', 'http:', 'https:', 'http+unix:']

function positive(name, value, most) {
  if (!Number.isSafeInteger(value) || value < 1 || value > most) throw new TypeError(`${name}: ${value}: must be a whole number from 1 to ${most}`)
}

function known(name, value, list) {
  if (typeof value !== 'object' || value === null) throw new TypeError(`${name}: must be an object`)
  for (const key in value) if (!list.includes(key)) throw new TypeError(`${key}: unknown; there are ${list.join(', ')}`)
}

/** Reads the url of a server. Throws a TypeError that names the option at fault. */
export function readURL(text, option = 'url') {
  let url
  try {
    url = new URL(text)
  } catch {
    const shown = String(text).replace(/\/\/.*@/, '//...@') // without what may be a password
    throw new TypeError(`${option}: ${shown}: must be such as redis://127.0.0.1:6380, rediss://HOST:PORT, unix:///PATH, http://127.0.0.1:8080, https://HOST or http+unix:///PATH`)
  }
  if (!protocols.includes(url.protocol)) throw new TypeError(`${option}: ${url.protocol}//: must be one of ${protocols.map((p) => `${p}//`).join(', ')}`)
  if (url.protocol.endsWith('unix:') && (url.hostname || url.pathname.length < 2)) throw new TypeError(`${option}: ${text}: the path of a socket has three slashes before it, such as unix:///run/headgate/resp.sock`)
  if (!url.protocol.startsWith('redis') && (url.username || url.password)) throw new TypeError(`${option}: holds a password: give it as token`)
  if (!url.protocol.endsWith('unix:') && url.pathname.length > 1) throw new TypeError(`${option}: ${url.pathname}: the server's addresses have no path`)
  try {
    for (const part of [url.pathname, url.username, url.password]) decodeURIComponent(part)
  } catch {
    throw new TypeError(`${option}: has a '%' that begins no escape of UTF-8: write %25 for it`)
  }
  // Port 80 is not in the URL, but may be in the text.
  if (url.protocol === 'http:' && url.port === '' && !/:\d+\/?\s*$/.test(text)) url.port = '8080'
  return url
}

/** Reads the options of a client, with defaults for what is not said. Throws a TypeError that names the fault. */
export function readOptions(given) {
  known('options', given, names)
  const o = {...defaults}
  for (const name in given) if (given[name] !== undefined) o[name] = given[name]
  known('breaker', o.breaker, ['failures', 'cooldown'])
  o.breaker = {...defaults.breaker, ...o.breaker}
  positive('timeout', o.timeout, 60_000)
  positive('maxPending', o.maxPending, 1_000_000)
  positive('breaker.failures', o.breaker.failures, 1_000_000)
  positive('breaker.cooldown', o.breaker.cooldown, 60_000)
  failurePolicy('onError', o.onError)
  if (typeof o.application !== 'string' || o.application === '' || !o.application.isWellFormed()) throw new TypeError('application: must be a name')
  if (o.token !== undefined && (typeof o.token !== 'string' || !/^[!-~]+$/.test(o.token))) throw new TypeError('token: must be a string of printable ASCII characters without spaces, and not empty')
  if (typeof o.logger?.warn !== 'function') throw new TypeError('logger: must have a method warn')
  o.logger = guarded(o.logger)
  if (o.url !== undefined) o.url = readURL(o.url)
  const overTLS = o.url?.protocol === 'rediss:' || o.url?.protocol === 'https:'
  if (o.tls !== undefined && !overTLS) throw new TypeError('tls: only with a url of rediss:// or https://')
  if (o.redis !== undefined) {
    if (typeof o.redis !== 'object' || o.redis === null) throw new TypeError('redis: must be an ioredis instance or its options')
    if (o.url?.protocol.startsWith('http')) throw new TypeError('redis: the url is of HTTP; give one of both')
    if (typeof o.redis.duplicate === 'function' && o.url) throw new TypeError('redis: an instance has its own address; give it or url')
  }
  return o
}
