package store

import "testing"

// contract is what every [Store] keeps to.
var contract = map[string]func(*testing.T, *rig){
	"InsertAndClaim":      testInsertAndClaim,
	"ClaimedInsert":       testClaimedInsert,
	"Delay":               testDelay,
	"Due":                 testDue,
	"DueTakesTurns":       testDueTakesTurns,
	"Depth":               testDepth,
	"ClaimersDisjoint":    testClaimersDisjoint,
	"Concurrency":         testConcurrency,
	"IdempotencyKey":      testIdempotencyKey,
	"UniqueKey":           testUniqueKey,
	"BothKeys":            testBothKeys,
	"KeysInOneBatch":      testKeysInOneBatch,
	"KeysOfBatchesAtOnce": testKeysOfBatchesAtOnce,
	"End":                 testEnd,
	"EndIsFenced":         testEndIsFenced,
	"EndsAtOnce":          testEndsAtOnce,
	"Back":                testBack,
	"BackIsFenced":        testBackIsFenced,
	"BackOfCancelled":     testBackOfCancelled,
	"Cancel":              testCancel,
	"CancelAgainstBack":   testCancelAgainstBack,
	"Kill":                testKill,
	"Takeover":            testTakeover,
	"Retry":               testRetry,
	"RetryKeys":           testRetryKeys,
	"Owners":              testOwners,
	"Adopt":               testAdopt,
	"Orphans":             testOrphans,
	"Leave":               testLeave,
	"Beats":               testBeats,
	"InputsStay":          testInputsStay,
	"Attempt":             testAttempt,
	"Steps":               testSteps,
	"Retention":           testRetention,
	"RetentionOfName":     testRetentionOfName,
	"GetIsOneMoment":      testGetIsOneMoment,
	"GetKeepsOrder":       testGetKeepsOrder,
	"List":                testList,
	"Counts":              testCounts,
	"Policies":            testPolicies,
	"Secret":              testSecret,
	"Nothing":             testNothing,
}

func TestMemory(t *testing.T) {
	for name, test := range contract {
		t.Run(name, func(t *testing.T) { test(t, memoryRig(t)) })
	}
}

func TestPostgres(t *testing.T) {
	p := openPostgres(t)
	for name, test := range contract {
		t.Run(name, func(t *testing.T) { test(t, postgresRig(t, p)) })
	}
}
