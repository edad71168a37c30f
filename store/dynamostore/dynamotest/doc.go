// Package dynamotest runs dynalite, a local server that speaks DynamoDB's protocol,
// for tests. scripts/test-deps.sh installs it.
//
// The server knows no transactions, ignores
// ReturnValuesOnConditionCheckFailure, and has no time to live.
package dynamotest
