// An Express application whose requests one of the contestants limits, by the header
// field X-User. It writes its port when it listens, and ends when its input does.
//
//   node server.mjs CONTESTANT [URL of its store or server]
//
// "/" has a limit that is not reached; of "/tight" 5 requests of a user pass in an hour.
import express from 'express';

const [contestant, url] = process.argv.slice(2);
const user = (req) => req.headers['x-user'] ?? 'nobody';

// Each makes a middleware that lets count requests of a user pass in so many seconds.
const contestants = {
  bare: () => () => (req, res, next) => next(),

  headgate: async () => {
    const {Headgate, rateLimit} = await import('headgate');
    // Nothing passes unchecked, or it would be counted as limited.
    const client = new Headgate({url, onError: 'closed', timeout: 5000});
    return (count, seconds) => rateLimit({client, windowMs: seconds * 1000, limit: count, identifier: user});
  },

  'rate-limiter-flexible': async () => {
    const {RateLimiterMemory, RateLimiterRedis} = await import('rate-limiter-flexible');
    const storeClient = await redis();
    return (points, duration) => {
      const options = {points, duration, keyPrefix: `rlf-${duration}`};
      const limiter = storeClient ? new RateLimiterRedis({...options, storeClient}) : new RateLimiterMemory(options);
      // As its documentation has it for Express.
      return (req, res, next) => limiter.consume(user(req)).then(
        () => next(),
        (refused) => (refused instanceof Error ? next(refused) : res.status(429).send('Too Many Requests')),
      );
    };
  },

  'express-rate-limit': async () => {
    const {rateLimit} = await import('express-rate-limit');
    const client = await redis();
    const {RedisStore} = await import('rate-limit-redis');
    return (limit, seconds) => rateLimit({
      limit, windowMs: seconds * 1000, standardHeaders: 'draft-8', legacyHeaders: false, keyGenerator: user,
      store: client && new RedisStore({sendCommand: (command, ...args) => client.call(command, ...args), prefix: `erl-${seconds}:`}),
    });
  },
};

// redis connects to a store, where there is one.
async function redis() {
  if (!url) return undefined;
  const {Redis} = await import('ioredis');
  const client = new Redis(url);
  await client.ping();
  return client;
}

const limit = await contestants[contestant]();
const app = express();
app.disable('x-powered-by');
app.disable('etag');
app.get('/', limit(1_000_000_000, 60), (req, res) => res.send('ok'));
app.get('/tight', limit(5, 3600), (req, res) => res.send('ok'));
const server = app.listen(0, '127.0.0.1', () => console.log(server.address().port));
process.stdin.resume().on('end', () => process.exit());
