// Package redisstore keeps the state of limits in Redis or Valkey, shared by all
// nodes that use it.
package redisstore
