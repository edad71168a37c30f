//go:build !race

package dynamostore

const raced = false
