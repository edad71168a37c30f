/**
 * A bucket of tokens that the instances of a PM2 cluster share, with the interface of
 * pm2-token-bucket and a Headgate server behind it: import it from here, and change nothing
 * else.
 *
 * Managers and clients find each other in the directory `headgate` of `PM2_HOME` (`~/.pm2`),
 * which must belong to the user and be closed to all others (mode 700). There is no limit to
 * how many buckets there are: each has a name.
 */

/** The numbers of a bucket. */
export interface BucketNumbers {
  /** How many tokens the bucket holds, a whole number from 1. */
  capacity: number
  /** How many tokens come back in each `refillInterval`: above 0, with up to 3 decimals. */
  refillRate: number
  /** Milliseconds, a whole number from 1. */
  refillInterval: number
}

export interface BucketStatus extends BucketNumbers {
  /** Whole tokens, from 0 to `capacity`. */
  tokens: number
}

/** What managers and clients say of the bucket and of the server. */
export interface SharedOptions {
  /**
   * The bucket, where there are several: 1 to 40 letters, digits, `.`, `_` and `-`. Default
   * `tokens`.
   */
  name?: string
  /**
   * The URL of a Headgate that runs already, as for `Headgate`, such as
   * `redis://127.0.0.1:6380`. Default `HEADGATE_URL`; without both the manager starts one.
   */
  url?: string
  /** Where warnings go. Default `console`. */
  logger?: {warn(line: string): void}
}

export interface TokenManagerOptions extends SharedOptions, Partial<BucketNumbers> {
  /** Default 100. */
  capacity?: number
  /** Default 10. */
  refillRate?: number
  /** Default 1000. */
  refillInterval?: number
  /** The program `headgate`. Default `HEADGATE_BIN`, else `headgate` on the `PATH`. */
  binary?: string
  /** Milliseconds that the server may take to start, 1 to 60000. Default 10000. */
  startTimeout?: number
}

/**
 * Keeps a bucket: starts a Headgate for it, starts that again when it ends, and ends it with
 * itself, however that happens. It is a PM2 application of its own, with one instance; a
 * second manager of the same name does not start.
 *
 * The bucket refills continuously: with 1 token in 3 seconds, one comes back 3 seconds after
 * the last was taken. A restart does not fill it: the server keeps its state in the directory
 * of the bucket.
 */
export class TokenManager {
  /** Throws a TypeError that names the option at fault. */
  constructor(options?: TokenManagerOptions)

  /**
   * Starts the server. `callback` is called once: with null when clients are served, or with
   * what prevented it; then nothing runs. Without a callback such an error is thrown, which
   * ends the process, and PM2 starts it again. A manager is started once.
   */
  start(callback?: (err: Error | null) => void): void

  /**
   * The bucket now, without asking the server: what it said when it was asked last, and the
   * refill since. It is asked every 250 ms, so tokens that were taken since are still there;
   * while it does not answer, all that were.
   */
  getStatus(): BucketStatus

  /**
   * Ends the server and what the manager listens to. Resolves when that has ended. Called by
   * itself on SIGINT, SIGTERM, PM2's `shutdown` message and the end of PM2.
   */
  stop(): Promise<void>
}

export interface TokenClientOptions extends SharedOptions, Partial<BucketNumbers> {
  /** Milliseconds to wait for an answer, 1 to 60000. Default 500. */
  timeout?: number
  /** What `consume` gives when nobody answers. Default true. */
  failOpen?: boolean
  /**
   * The numbers of the bucket, all three or none: for a client that cannot read what the
   * manager wrote (another user, another machine). `url` must be said then. They must be
   * those of all other clients.
   */
  capacity?: number
  refillRate?: number
  refillInterval?: number
}

export interface TokenClientStats {
  /** Granted and refused by the bucket. */
  allowed: number
  refused: number
  /** Granted (`failOpen`) and refused as nobody answered. */
  failedOpen: number
  failedClosed: number
  /** Refused, as the bucket can never give so many tokens, or it is no number of tokens. */
  invalid: number
}

/** Takes tokens, from any process of the same PM2 and user. */
export class TokenClient {
  /** Throws a TypeError that names the option at fault. */
  constructor(options?: TokenClientOptions)

  /**
   * Takes n tokens, 1 unless said, or none. It never rejects:
   *
   * - true: they were taken. 0 are always there.
   * - false: there are not so many now.
   * - false, logged and counted as `invalid`: n is above `capacity`, or is not a whole number
   *   from 0.
   * - `failOpen`, logged at most once a second and counted: nobody answered within `timeout`,
   *   or there is no manager (at once). The tokens may have been taken all the same. After
   *   five times in a row the server is asked only every 500 ms, until it answers.
   */
  consume(n?: number): Promise<boolean>

  /** How many calls of `consume` ended how. */
  stats(): TokenClientStats

  /** Ends the connection, which otherwise keeps the process alive. */
  close(): Promise<void>
}
