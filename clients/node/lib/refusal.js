import {STATUS_CODES} from 'node:http'
import {setRetryAfter} from './fields.js'

// What refused clients are told, as by Headgate's other doors: problem documents (RFC 9457),
// with the types of draft-ietf-httpapi-ratelimit-headers-11 where it has one.
const registered = 'https://iana.org/assignments/http-problem-types#'
const own = 'urn:headgate:problem:'

const quotaExceeded = {type: `${registered}quota-exceeded`, title: 'Quota exceeded', status: 429, detail: 'too many requests'}
const problems = {
  rate_limited: quotaExceeded,
  quota_exceeded: quotaExceeded,
  concurrency_exceeded: quotaExceeded,
  wait_timeout: quotaExceeded,
  batch_refused: quotaExceeded,
  banned: {type: `${registered}abnormal-usage-detected`, title: 'Abnormal usage detected', status: 429, detail: 'banned'},
  cost_exceeds_limit: {type: `${own}cost_exceeds_limit`, title: 'Cost exceeds the limit', status: 422, detail: 'this request costs more than its limit can ever hold'},
  no_rule: {type: `${own}no_rule`, title: 'No rule lets this pass', status: 403, detail: 'no rule lets this request pass'},
  deny_listed: {type: `${own}deny_listed`, title: 'Deny-listed', status: 403, detail: 'this client may not pass'}
}
const reducedCapacity = {type: `${registered}temporary-reduced-capacity`, title: 'Capacity temporarily reduced', status: 503, detail: 'the service cannot take this request at the moment'}

// Of decisions that the server has not made.
const unchecked = 'the limits of this request could not be checked'

/** The problem of a decision that refuses. */
export const problemOf = (decision) => problems[decision.reason] ?? reducedCapacity

/** Sets the fields that every refusal has. */
export function setRefusal(res, decision) {
  res.setHeader('Headgate-Reason', decision.reason)
  if (decision.retryable) setRetryAfter(res, decision.retryAfterMs ?? 0)
}

/**
 * Answers with the problem document.
 *
 * @param {string[]} violated names the limits that refuse
 * @param {number} [status] instead of that of the problem
 */
export function sendProblem(res, decision, violated, status) {
  const {type, title, status: usual, detail} = problemOf(decision)
  const code = status ?? usual
  const body = {type, title, status: code, detail: unchecked}
  if (!decision.error) {
    body.detail = decision.message ?? (decision.retryable ? `${detail}; try again in ${res.getHeader('Retry-After')} s` : detail)
    if (violated.length > 0) body['violated-policies'] = violated
    if (decision.retryable) body.retry_after_ms = decision.retryAfterMs ?? 0
  }
  send(res, code, 'application/problem+json', JSON.stringify(body))
}

/** Answers a request whose target is bad. */
export function sendBadTarget(res, {status, message}) {
  send(res, status, 'application/problem+json', JSON.stringify({type: `${own}invalid_request`, title: 'Invalid request', status, detail: message}))
}

/** Answers with a message: a string as text, anything else as JSON. */
export function sendMessage(res, message, status) {
  if (typeof message === 'string') send(res, status, 'text/plain; charset=utf-8', message)
  else send(res, status, 'application/json', JSON.stringify(message))
}

function send(res, status, type, text) {
  // The program has begun to answer: there is no way to say it, and the program is not asked.
  if (res.headersSent) return res.end()
  res.statusCode = status
  res.statusMessage = STATUS_CODES[status]
  res.setHeader('Content-Type', type)
  res.setHeader('Cache-Control', 'no-store')
  res.setHeader('Content-Length', Buffer.byteLength(text))
  res.end(text)
}
