// What callers may say, checked before it is sent: a misspelt name must not be silence.

const fields = {
  application: text,
  operation: text,
  subject: text,
  plan: text,
  id: text,
  ip: text,
  method: text,
  path: text,
  host: text,
  cost: whole,
  units: wholes,
  attributes: texts,
  headers: lines,
  maxWait: whole,
  ttl: whole,
  fields: truth
}

function wrong(name, value, what) {
  let shown
  try {
    shown = JSON.stringify(value) ?? String(value)
  } catch {
    shown = typeof value
  }
  return new TypeError(`${name}: ${shown.slice(0, 64)}: must be ${what}`)
}

function text(name, value) {
  if (typeof value !== 'string') throw wrong(name, value, 'a string')
}

function whole(name, value, least = 0) {
  if (!Number.isSafeInteger(value) || value < least) throw wrong(name, value, `a whole number from ${least}`)
}

function truth(name, value) {
  if (typeof value !== 'boolean') throw wrong(name, value, 'true or false')
}

function object(name, value) {
  if (typeof value !== 'object' || value === null || Array.isArray(value)) throw wrong(name, value, 'an object')
}

function wholes(name, value) {
  object(name, value)
  for (const key in value) whole(`${name}.${key}`, value[key])
}

function texts(name, value) {
  object(name, value)
  for (const key in value) text(`${name}.${key}`, value[key])
}

function lines(name, value) {
  object(name, value)
  for (const key in value) {
    if (Array.isArray(value[key])) for (const line of value[key]) text(`${name}.${key}`, line)
    else text(`${name}.${key}`, value[key])
  }
}

/** Checks a failure policy. */
export function failurePolicy(name, value) {
  if (value !== 'open' && value !== 'closed' && value !== 'throw') throw wrong(name, value, "'open', 'closed' or 'throw'")
}

function unknown(from, known) {
  for (const name in from) if (!known.has(name)) throw new TypeError(`${name}: unknown; there are ${[...known].join(', ')}`)
}

function read(from, into, known) {
  object('the argument', from)
  unknown(from, known)
  for (const name in from) {
    const value = from[name]
    if (value === undefined) continue
    if (name === 'onError') {
      failurePolicy(name, value)
    } else if (name === 'signal') {
      if (!(value instanceof AbortSignal)) throw wrong(name, value, 'an AbortSignal')
    } else {
      fields[name](name, value)
      into[name] = value
    }
  }
  return into
}

const ofRequest = new Set(['application', 'operation', 'subject', 'cost', 'units', 'plan', 'ip', 'id', 'method', 'path', 'host', 'headers', 'attributes', 'maxWait', 'fields', 'onError', 'signal'])
const ofReservation = new Set([...ofRequest, 'ttl'])
const ofTicket = {settle: new Set(['cost', 'units']), renew: new Set(['ttl']), release: new Set()}

/** Reads what take, peek and reserve are asked. */
export function readRequest(request, application, reserves = false) {
  const q = read(request, {application, operation: '', subject: ''}, reserves ? ofReservation : ofRequest)
  if (q.operation === '' && !q.path) throw new TypeError('operation: say what is done, or the path of the request')
  return q
}

/** Reads what settle, renew and release are asked. */
export function readTicket(kind, ticket, more) {
  text('ticket', ticket)
  return read(more, {ticket}, ofTicket[kind])
}

// 100 years: the longest period of the server, in seconds.
const longestPeriod = 100 * 366 * 86400

const ofLimit = new Set(['burst', 'count', 'period', 'cost', 'onError'])

/** Reads what throttle is asked. */
export function readLimit(key, limit) {
  text('key', key)
  object('the limit', limit)
  unknown(limit, ofLimit)
  const {count, burst = count, period, cost = 1, onError} = limit
  whole('count', count, 1)
  whole('burst', burst, 1)
  whole('cost', cost)
  if (!(period >= 0.001 && period <= longestPeriod)) throw wrong('period', period, `seconds from 0.001 to ${longestPeriod}`)
  if (onError !== undefined) failurePolicy('onError', onError)
  return {key, burst, count, period, cost}
}

const ofReset = new Set(['application', 'subject', 'limits'])

/** Reads what reset is asked. */
export function readReset(what, usual) {
  object('the argument', what)
  unknown(what, ofReset)
  const {application = usual, subject, limits = []} = what
  text('application', application)
  text('subject', subject)
  // They stand in a URL, which cannot have half a character.
  if (!application.isWellFormed()) throw wrong('application', application, 'well-formed Unicode')
  if (!subject.isWellFormed()) throw wrong('subject', subject, 'well-formed Unicode')
  if (!Array.isArray(limits)) throw wrong('limits', limits, 'a list of ids of limits')
  for (const id of limits) text('limits', id)
  return {application, subject, limits}
}
