import type {IncomingMessage, ServerResponse} from 'node:http'
import type {ConnectionOptions} from 'node:tls'
import type {Redis, RedisOptions} from 'ioredis'

/**
 * What becomes of a request that the server did not decide: because it does not answer in
 * time or at all, stops, or its own store cannot decide.
 *
 * - `closed`: it is refused.
 * - `open`: it passes. Not so where the server has no room for another key: that refuses
 *   always, or whoever floods it would open it.
 * - `throw`: the call rejects with a HeadgateError.
 */
export type FailurePolicy = 'open' | 'closed' | 'throw'

/** Options of a client. */
export interface HeadgateOptions {
  /**
   * Where the server is. The Redis door: `redis://HOST:6380` (the default is
   * `redis://127.0.0.1:6380`), `rediss://HOST:PORT` over TLS, `unix:///PATH`. The HTTP door:
   * `http://HOST:8080` (without a port it is 8080), `https://HOST:PORT` (443),
   * `http+unix:///PATH`. The Redis door is several times as fast; the HTTP door can wait in
   * line (`maxWait`).
   */
  url?: string
  /** The token, where decisions need one: printable ASCII without spaces. */
  token?: string
  /** Further options of TLS, such as `ca`, `cert` and `key`. Only with `rediss://` and `https://`. */
  tls?: ConnectionOptions
  /**
   * Options of ioredis, or an instance to take them from: its address, TLS and password. The
   * instance itself is not used, as the client needs other settings (nothing is sent twice).
   */
  redis?: Redis | RedisOptions
  /**
   * How long a call waits for an answer, in milliseconds, 1 to 60,000. Default 100. Where
   * the attempt to connect fails before, the call does not wait any longer.
   */
  timeout?: number
  /** Default `closed`. */
  onError?: FailurePolicy
  /**
   * After `failures` calls without answer in a row (default 5) calls are decided by `onError`
   * at once, without asking; one call each `cooldown` milliseconds (default 500) asks whether
   * the server is back.
   */
  breaker?: {failures?: number; cooldown?: number}
  /** The application of calls that name none. Default `default`. */
  application?: string
  /** How many calls may wait for an answer, late ones included; beyond it `onError` decides at once. Default 10,000. */
  maxPending?: number
  /**
   * Takes warnings, and may throw: of each kind one line in ten seconds. `info`, or where there is none
   * `warn`, is told when the server is back, and how many calls were decided without it.
   * Default `console`.
   */
  logger?: {warn(message: string): void; info?(message: string): void}
}

/** The state of one limit. */
export interface LimitState {
  /** Its name: `app/NAME`, `RULE/NAME`, `plan/NAME`; `throttle` for that of a throttle. */
  id: string
  /** `token_bucket`, `leaky_bucket`, `fixed_window`, `sliding_window`, `sliding_log`, `quota`, `concurrency`, `ban`; others may come. */
  algorithm: string
  /** Whose budget it is: `subject`, `application`, `global`, `expression`. */
  owner: string
  /** What it counts: `requests`, or a unit of `units`. */
  unit: string
  allowed: boolean
  limit: number
  used: number
  remaining: number
  /** By how much it is exceeded: soft quotas, and settling above a reservation. */
  overage: number
  /** When it would let the same request pass, in milliseconds; 0 if it does, null if never. */
  retryAfterMs: number | null
  /** When it is as if never used, in milliseconds. */
  resetMs: number
  /** The end of a quota's period, as in RFC 3339. */
  resetsAt: string | null
  mode: 'enforce' | 'shadow' | (string & {})
  /** Whether the figures are exact, and not lower bounds. */
  exact: boolean
}

/** The answer to one request. */
export interface Decision {
  /** Whether it may pass. */
  allowed: boolean
  /**
   * Why: `ok`, `no_rule`, `skipped`, `allow_listed`, `rate_limited`, `quota_exceeded`,
   * `concurrency_exceeded`, `banned`, `deny_listed`, `cost_exceeds_limit`, `overloaded`,
   * `store_unavailable`, `wait_timeout`; others may come.
   */
  reason: string
  /** Of the limit that decided; null if none did. */
  limit: number | null
  /** Of the limit that decided; null if none did. */
  remaining: number | null
  /** When the limit that decided is as if never used, in milliseconds; null if none did. */
  resetMs: number | null
  /** When the same request would pass, in milliseconds: 0 when allowed, null if never. */
  retryAfterMs: number | null
  /** All limits that took part. */
  limits: LimitState[]
  /** Whether it can pass at all as it stands. */
  retryable: boolean
  /** null if the limits decided; else by which policy it was decided without them: `open`, `closed`, or `local` by the server's share. */
  degraded: string | null
  /** Why the server did not decide, where this client's `onError` has. */
  error: HeadgateError | null
  /** What settle, renew and release take: of reservations, and of takes that hold slots. */
  ticket: string | null
  /** What the policy's rule has to say to who is refused; null if nothing. */
  message: string | null
  /** What else the server says; null for throttles in whole seconds over the Redis door, and without a server. */
  details: DecisionDetails | null
}

/** What else the server says of a decision. */
export interface DecisionDetails {
  id: string
  /** The limit that decided. */
  boundBy: string | null
  application: string
  rule: string
  operation: string
  subject: string
  plan: string
  cost: number
  units: Record<string, number>
  mode: string
  /** Why limits in shadow mode would have refused. */
  wouldDeny: string | null
  /** What candidate limits would have answered. */
  candidate: {allowed: boolean; reason: string} | null
  /** Whether this is the answer to an earlier request with the same id, and charged nothing. */
  replayed: boolean
  /** How long it waited in line, in milliseconds. */
  waitedMs: number
  /** How long the caller has to wait before it goes on (leaky buckets), in milliseconds. */
  delayMs: number
  policyRevision: number
  /** The value of RateLimit-Policy for who is limited, with `fields`; null without, and where no limit is the subject's own. */
  rateLimitPolicy: string | null
  /** Likewise of RateLimit. */
  rateLimit: string | null
  /** Of settle, renew and release: whether the ticket was still open. */
  held?: boolean
}

/** What is asked of the policy. `operation` or `path` is required. */
export interface TakeRequest {
  /** Default: that of the client. */
  application?: string
  /** What is done. */
  operation?: string
  /** Who does it, at most 512 bytes; empty: the application's `identity` finds it. */
  subject?: string
  /** What it costs, from 0, which only looks. Default: as the rule says. */
  cost?: number
  /** Costs in other units than requests. */
  units?: Record<string, number>
  /** The plan, where the subject's record names none. */
  plan?: string
  /** An idempotency key: a second request with it is not charged. */
  id?: string
  /** The address of the client. */
  ip?: string
  method?: string
  /** The path with its query. */
  path?: string
  host?: string
  headers?: Record<string, string | string[]>
  attributes?: Record<string, string>
  /**
   * How long it may wait in line instead of being refused, in milliseconds; it goes beyond
   * `timeout`. Default 0, whatever the rule says. HTTP only: waiting would hold up all calls
   * of a connection of the Redis door. 256 calls of a client stand in line at one time, others
   * behind them.
   */
  maxWait?: number
  /** Whether `details` has the values of RateLimit and RateLimit-Policy. Default false. */
  fields?: boolean
  /** Gives the call up, and its place in line: it rejects with the code `aborted`, and what it took is given back. */
  signal?: AbortSignal
  /** Instead of the client's. */
  onError?: FailurePolicy
}

export interface ReserveRequest extends TakeRequest {
  /** How long it is held, in milliseconds, 1 to 86,400,000. Default 60,000. */
  ttl?: number
}

/** A token bucket. */
export interface Limit {
  /** What it holds, from 1. Default: count. */
  burst?: number
  /** How many tokens come back in a period, from 1. */
  count: number
  /** In seconds, from 0.001. In whole seconds the Redis door is fastest. */
  period: number
  /** What to take, from 0, which only looks. Default 1. */
  cost?: number
  /** Instead of the client's. */
  onError?: FailurePolicy
}

/** Counters since the client was made, and its state. */
export interface Stats {
  calls: number
  /** Decisions of the server. */
  allowed: number
  refused: number
  /** Decisions by `onError`. */
  failedOpen: number
  failedClosed: number
  /** Calls that were not answered in time. */
  timeouts: number
  /** Calls that were rejected. */
  errors: number
  /** Calls that wait for an answer. */
  pending: number
  breaker: 'closed' | 'open' | 'half_open'
  /** Redis door: whether there is a connection. HTTP door: whether the last call was answered. */
  connected: boolean
}

/**
 * A client. It connects at the first call, again whenever the connection is lost, and sends
 * all calls of one turn of the event loop in one write. One client serves a whole program.
 *
 * A call that gets no answer may have been charged all the same; it is not sent again. A
 * ticket in an answer that comes too late is released, unless the request has an `id`: who
 * asks again with it gets the ticket. Settling and releasing may be repeated.
 */
export class Headgate {
  /** Throws a TypeError that names what is wrong. */
  constructor(options?: HeadgateOptions)
  /** The application of calls that name none. */
  readonly application: string
  /** Charges a request by the policy. Refusals are decisions; it rejects where the call or the configuration is wrong. */
  take(request: TakeRequest): Promise<Decision>
  /** Looks, and charges nothing. */
  peek(request: TakeRequest): Promise<Decision>
  /** Holds an estimate, until its ticket is settled or released. */
  reserve(request: ReserveRequest): Promise<Decision>
  /**
   * Corrects what was reserved to what it cost; without real costs to what was reserved. Where
   * the server does not decide it rejects, and goes on to try for a minute, until `close`.
   */
  settle(ticket: string, real?: {cost?: number; units?: Record<string, number>}): Promise<Decision>
  /** Holds it for another `ttl` milliseconds, or as long as before. The middleware does so by itself. */
  renew(ticket: string, hold?: {ttl?: number}): Promise<Decision>
  /** Gives back what was reserved, or frees slots. Tries on as settle does. */
  release(ticket: string): Promise<Decision>
  /** Takes n of the subject's budget for the operation: `take({subject, cost: n, operation})`. */
  consumeTokens(subject: string, n: number, operation: string): Promise<Decision>
  /**
   * Takes from a token bucket of the caller's, which needs no policy. The key is 1 to 512
   * bytes without CR, LF and NUL. Keys are shared by all programs; their buckets keep the
   * level when the numbers change.
   */
  throttle(key: string, limit: Limit): Promise<Decision>
  /** Forgets what a subject has used: of limits by id, or of all but bans. Needs a token with the scope operate. */
  reset(what: {application?: string; subject: string; limits?: string[]}): Promise<{application: string; subject: string; limits: string[]}>
  /** Resolves if the server answers; it asks even while the breaker is open. */
  ping(): Promise<void>
  stats(): Stats
  /**
   * Waits until all calls have ended, and the tickets that limiters hold or that are still
   * to be ended, at most for `timeout`, and closes the connections. Calls reject from the
   * beginning, those that end tickets at the end.
   */
  close(): Promise<void>
}

/**
 * Why there is no decision.
 *
 * From the server: `invalid_request` (also where another server than Headgate's answers at
 * `url`), `unauthorized`, `forbidden`, `not_found`, `conflict`; and `unavailable`,
 * `overloaded`, `closed`, `internal`, after which `onError` decides. From this client:
 * `timeout`, `disconnected`, `breaker_open`, `too_many_pending`, after which `onError`
 * decides; `client_closed`; `aborted`, by the call's `signal`; and `no_address`, where the
 * middleware finds none.
 */
export class HeadgateError extends Error {
  constructor(code: string, message: string, cause?: unknown)
  readonly code: string
}

/** A request as Express, connect and node:http have it. */
export interface LimitedRequest extends IncomingMessage {
  /** That of Express. */
  ip?: string | undefined
  originalUrl?: string
  rateLimit?: RateLimitInfo
  rateLimitInfo?: Decision
}

/** What `req.rateLimit` holds; null where no limit took part. */
export interface RateLimitInfo {
  limit: number | null
  used: number | null
  remaining: number | null
  /** When the limit is as if never used. */
  resetTime: Date | null
  /** Who is limited. */
  key: string
}

type Awaitable<T> = T | Promise<T>

/** A value, or a function of the request that gives it. */
type Of<T, Q, S> = T | ((req: Q, res: S) => Awaitable<T>)

/**
 * Options of rateLimit. All functions may be async; what they throw goes to `next(error)`, in
 * an Error if it is none.
 *
 * Without `application` the numbers stand here, in a token bucket: a client may use
 * `capacity` at once and `requestsPerMinute` in the long run. With it they stand in the
 * server's policy.
 */
export interface RateLimitOptions<Q = LimitedRequest, S extends ServerResponse = ServerResponse> {
  /** Tokens that come back in a minute. Default 60. 0 refuses every request with 429, and the server is not asked. */
  requestsPerMinute?: Of<number, Q, S>
  /** What the bucket holds, from 1. Default: the limit. Not with a limit of 0. */
  capacity?: Of<number, Q, S>
  /** As requestsPerMinute, in `windowMs`. */
  limit?: Of<number, Q, S>
  /** An alias of limit. */
  max?: Of<number, Q, S>
  /** The time for which limit is, in milliseconds, from 1. Default 60,000. */
  windowMs?: number
  /**
   * Names the bucket, and stands in RateLimit. Limiters of one name and application share
   * their buckets, in all processes. Without it a limiter shares them with the one that other
   * processes make as its equal: of the same numbers, the first with the first and so on.
   */
  name?: string
  /**
   * Who is limited. Default: `req.ip` as Express finds it (behind a proxy set `trust proxy`),
   * else the address of the connection; IPv6 by network, as `ipv6Subnet` says.
   */
  identifier?: (req: Q, res: S) => Awaitable<string | number>
  /** An alias of identifier. */
  keyGenerator?: (req: Q, res: S) => Awaitable<string | number>
  /** Bits of an IPv6 network that count as one client, 32 to 64, or false for single addresses. Default 64. */
  ipv6Subnet?: Of<number | false, Q, S>
  /** Requests that are not limited. */
  skip?: (req: Q, res: S) => Awaitable<boolean>
  /** What a request costs, from 0, which only looks. Default 1. */
  weight?: Of<number, Q, S>

  /** Asks this application of the policy. */
  application?: string
  /**
   * What is done. Default: rules match method, path and host; requests whose path the server
   * does not take, or has a segment `.` or `..`, are answered with 400, or 414 where it is
   * longer than 8192 bytes. Needs application.
   */
  operation?: Of<string, Q, S>
  /** The plan, where the subject's record names none. Needs application. */
  plan?: Of<string, Q, S>
  /** Further facts for the policy's expressions. Needs application. */
  attributes?: (req: Q, res: S) => Awaitable<Record<string, string>>
  /**
   * How long a request may wait in line, or for its turn in a leaky bucket, in milliseconds.
   * Default: not at all, whatever the rule says. Needs application, and a client over HTTP.
   */
  maxWait?: number
  /** Does not charge requests that succeed: they are reserved, and released at the end. Needs application. */
  skipSuccessfulRequests?: boolean
  /** Does not charge requests that fail or break off. Needs application. */
  skipFailedRequests?: boolean
  /** Default: a status below 400. Where it throws, or says nothing within 5 seconds, the request stays charged. */
  requestWasSuccessful?: (req: Q, res: S) => Awaitable<boolean>

  /** Default: one for all middleware, at `redis://127.0.0.1:6380`. */
  client?: Headgate

  /** What refused clients are told: a string, or an object as JSON. Default: a problem document (RFC 9457). */
  message?: string | object | ((req: Q, res: S) => unknown)
  /** Default: 429; 422 for a cost that can never pass, 403 where the policy lets nobody pass. */
  statusCode?: number
  /** Is told of each refusal, before it is answered. If it answers itself, nothing else is sent. */
  onLimitExceeded?: (req: Q, res: S, decision: Decision) => unknown
  /** Answers instead, with a status of its own: `options.statusCode` is that of `statusCode`. */
  handler?: (req: Q, res: S, next: (error?: unknown) => void, options: Record<string, unknown>) => unknown
  /** What becomes of requests that the server did not decide; those that are refused get a 503. Default: as the client's `onError`; where that is `throw`, `next(error)`. */
  onStoreError?: 'open' | 'closed' | ((error: HeadgateError, req: Q, res: S) => Awaitable<'open' | 'closed'>)
  /** true is `onStoreError: 'open'`, false is `'closed'`. */
  passOnStoreError?: boolean

  /**
   * `draft-8`, the default: RateLimit-Policy and RateLimit as lists, which draft 11 has too.
   * `draft-7`: RateLimit as one value. `draft-6`, and true: RateLimit-Limit, -Remaining and
   * -Reset. false: none.
   */
  standardHeaders?: boolean | 'draft-6' | 'draft-7' | 'draft-8'
  /** X-RateLimit-Limit, -Remaining, and -Reset in seconds since 1970. Default false. */
  legacyHeaders?: boolean
  /** Default `rateLimit`. Not `__proto__`, `constructor` or `prototype`. */
  requestPropertyName?: string
}

export interface RateLimitMiddleware<Q = LimitedRequest, S extends ServerResponse = ServerResponse> {
  /** `next` is called with an Error where the request must not pass. */
  (req: Q, res: S, next: (error?: any) => void): void
  /** That which it asks. */
  readonly client: Headgate
}

/**
 * Makes middleware for Express 4 and 5, connect and node:http. It sets `req.rateLimit` and
 * `req.rateLimitInfo`, the whole decision. Throws a TypeError that names what is wrong.
 */
export function rateLimit<Q = LimitedRequest, S extends ServerResponse = ServerResponse>(options?: RateLimitOptions<Q, S>): RateLimitMiddleware<Q, S>
export default rateLimit

/**
 * What an address is counted by: an IPv4 address alone, an IPv6 address with its network of
 * `subnet` bits, 32 to 64 (default 64; false: alone). A port is dropped. undefined if it is no
 * address.
 */
export function ipKeyGenerator(address: string, subnet?: number | false): string | undefined

declare global {
  namespace Express {
    interface Request {
      rateLimit?: RateLimitInfo
      rateLimitInfo?: Decision
    }
  }
}
