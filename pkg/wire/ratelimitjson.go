package wire

import (
	"strconv"
)

// Requests for tokens are the hottest of all endpoints: they read and write
// themselves.

// ParseJSON reads a request as it stands on the wire. What is wrong comes back as
// INVALID_ARGUMENT that names the field, such as takes[1].cost. An array that is
// there but empty is not nil.
func (r *LimitRequest) ParseJSON(data []byte) error {
	*r = LimitRequest{}
	object, err := jsonObject(data)
	if err != nil {
		return err
	}
	eachMember(object, func(name, value []byte) {
		switch string(name) {
		case "takes":
			r.Takes = parseTakes("takes", value, &err)
		case "batch":
			r.Batch = parseTakes("batch", value, &err)
		default:
			r.parseMember("", name, value, &err)
		}
	})
	return err
}

// jsonObject returns the object that data is, without what is around it.
func jsonObject(data []byte) ([]byte, error) {
	if !validJSON(data, 1) { // what is in it may be as deep as any JSON
		return nil, InvalidField("request", "must be JSON")
	}
	data = data[skipSpace(data, 0):]
	if data[0] != '{' {
		return nil, InvalidField("request", "must be an object")
	}
	return data, nil
}

func parseTakes(field string, value []byte, err *error) []LimitTake {
	if isNull(value) {
		return nil
	}
	if value[0] != '[' {
		refuse(err, field, "must be an array")
		return nil
	}
	// What is above the bound is refused by its number alone.
	takes := make([]LimitTake, 0, min(countElements(value), MaxLimitTakes+1))
	for i := skipSpace(value, 1); value[i] != ']' && len(takes) <= MaxLimitTakes; {
		end := skipValue(value, i)
		at := field + "[" + strconv.Itoa(len(takes)) + "]"
		var take LimitTake
		if value[i] == '{' {
			eachMember(value[i:end], func(name, v []byte) { take.parseMember(at+".", name, v, err) })
		} else {
			refuse(err, at, "must be an object")
		}
		takes = append(takes, take)
		if i = skipSpace(value, end); value[i] == ',' {
			i = skipSpace(value, i+1)
		}
	}
	return takes
}

// parseMember reads one member of the object that stands at a path, which ends
// with a dot.
func (t *LimitTake) parseMember(at string, name, value []byte, err *error) {
	if isNull(value) {
		return
	}
	switch string(name) {
	case "policy":
		t.Policy = parseText(at+"policy", value, err)
	case "key":
		t.Key = parseText(at+"key", value, err)
	case "cost":
		cost, bad := strconv.ParseInt(string(value), 10, 64)
		if bad != nil || cost < 0 {
			refuse(err, at+"cost", "must be a whole number, not negative, of 64 bits")
			return
		}
		t.Cost = &cost
	case "n":
		n, bad := strconv.ParseInt(string(value), 10, 64)
		if bad != nil || n < 1 || n > MaxLimitRepeats {
			refuse(err, at+"n", "must be a whole number from 1 to "+strconv.Itoa(MaxLimitRepeats))
			return
		}
		t.N = n
	}
}

func parseText(field string, value []byte, err *error) string {
	if value[0] != '"' {
		refuse(err, field, "must be a string")
		return ""
	}
	s, ok := unquote(value)
	if !ok {
		refuse(err, field, "must be UTF-8")
	}
	return s
}

// refuse keeps the first problem.
func refuse(err *error, field, allowed string) {
	if *err == nil {
		*err = InvalidField(field, allowed)
	}
}

// AppendJSON appends the request as it stands on the wire.
func (r LimitRequest) AppendJSON(dst []byte) []byte {
	dst = append(roomFor(dst, 96), '{')
	if r.Policy != "" || r.Key != "" || r.Cost != nil || r.N != 0 {
		dst = r.appendMembers(dst)
	}
	dst = appendTakes(dst, `"takes":[`, r.Takes)
	dst = appendTakes(dst, `"batch":[`, r.Batch)
	return append(dst, '}')
}

// roomFor makes room where there is none yet.
func roomFor(dst []byte, n int) []byte {
	if cap(dst) == 0 {
		return make([]byte, 0, n)
	}
	return dst
}

func appendTakes(dst []byte, name string, takes []LimitTake) []byte {
	if takes == nil {
		return dst
	}
	if dst[len(dst)-1] != '{' {
		dst = append(dst, ',')
	}
	dst = append(dst, name...)
	for i := range takes {
		if i > 0 {
			dst = append(dst, ',')
		}
		dst = append(takes[i].appendMembers(append(dst, '{')), '}')
	}
	return append(dst, ']')
}

func (t *LimitTake) appendMembers(dst []byte) []byte {
	dst = AppendString(append(dst, `"policy":`...), t.Policy)
	dst = AppendString(append(dst, `,"key":`...), t.Key)
	if t.Cost != nil {
		dst = strconv.AppendInt(append(dst, `,"cost":`...), *t.Cost, 10)
	}
	if t.N != 0 {
		dst = strconv.AppendInt(append(dst, `,"n":`...), t.N, 10)
	}
	return dst
}

// AppendJSON appends the reply as it stands on the wire. Those of a batch always
// say how many were granted.
func (r LimitReply) AppendJSON(dst []byte) []byte {
	dst = r.appendMembers(append(roomFor(dst, 128*(1+len(r.Takes)+len(r.Batch))), '{'), r.Granted != 0)
	dst = appendVerdicts(dst, `,"takes":[`, r.Takes, false)
	dst = appendVerdicts(dst, `,"batch":[`, r.Batch, true)
	return append(dst, '}')
}

func appendVerdicts(dst []byte, name string, verdicts []LimitVerdict, granted bool) []byte {
	if verdicts == nil {
		return dst
	}
	dst = append(dst, name...)
	for i := range verdicts {
		if i > 0 {
			dst = append(dst, ',')
		}
		v := &verdicts[i]
		dst = append(v.appendMembers(append(dst, '{'), granted || v.Granted != 0), '}')
	}
	return append(dst, ']')
}

func (v *LimitVerdict) appendMembers(dst []byte, granted bool) []byte {
	dst = strconv.AppendBool(append(dst, `"allowed":`...), v.Allowed)
	dst = strconv.AppendInt(append(dst, `,"remaining":`...), v.Remaining, 10)
	dst = strconv.AppendInt(append(dst, `,"limit":`...), v.Limit, 10)
	dst = strconv.AppendInt(append(dst, `,"resetMs":`...), v.ResetMs, 10)
	switch {
	case v.RetryAfterMs < 0:
		dst = append(dst, `,"retryAfterMs":null`...)
	case v.RetryAfterMs > 0:
		dst = strconv.AppendInt(append(dst, `,"retryAfterMs":`...), int64(v.RetryAfterMs), 10)
	}
	if v.Banned {
		dst = append(dst, `,"banned":true`...)
	}
	if v.Shadowed {
		dst = append(dst, `,"shadowed":true`...)
	}
	if granted {
		dst = strconv.AppendInt(append(dst, `,"granted":`...), v.Granted, 10)
	}
	if v.Revision != 0 {
		dst = strconv.AppendUint(append(dst, `,"revision":`...), v.Revision, 10)
	}
	if v.Version != "" {
		dst = AppendString(append(dst, `,"version":`...), v.Version)
	}
	if v.Code != "" {
		dst = AppendString(append(dst, `,"code":`...), string(v.Code))
	}
	return dst
}

// ParseJSON reads a reply as it stands on the wire.
func (r *LimitReply) ParseJSON(data []byte) error {
	*r = LimitReply{}
	object, err := jsonObject(data)
	if err != nil {
		return err
	}
	eachMember(object, func(name, value []byte) {
		switch string(name) {
		case "takes":
			r.Takes = parseVerdicts("takes", value, &err)
		case "batch":
			r.Batch = parseVerdicts("batch", value, &err)
		default:
			r.parseMember("", name, value, &err)
		}
	})
	return err
}

func parseVerdicts(field string, value []byte, err *error) []LimitVerdict {
	if isNull(value) {
		return nil
	}
	if value[0] != '[' {
		refuse(err, field, "must be an array")
		return nil
	}
	verdicts := make([]LimitVerdict, 0, countElements(value))
	for i := skipSpace(value, 1); value[i] != ']'; {
		end := skipValue(value, i)
		var v LimitVerdict
		if value[i] == '{' {
			eachMember(value[i:end], func(name, member []byte) { v.parseMember(field, name, member, err) })
		} else {
			refuse(err, field, "must be an array of objects")
		}
		verdicts = append(verdicts, v)
		if i = skipSpace(value, end); value[i] == ',' {
			i = skipSpace(value, i+1)
		}
	}
	return verdicts
}

func (v *LimitVerdict) parseMember(at string, name, value []byte, err *error) {
	if isNull(value) {
		if string(name) == "retryAfterMs" {
			v.RetryAfterMs = -1
		}
		return
	}
	number := func(into *int64) {
		n, bad := strconv.ParseInt(string(value), 10, 64)
		if bad != nil {
			refuse(err, at+"."+string(name), "must be a whole number of 64 bits")
			return
		}
		*into = n
	}
	truth := func(into *bool) {
		if *into = string(value) == "true"; !*into && string(value) != "false" {
			refuse(err, at+"."+string(name), "must be true or false")
		}
	}
	switch string(name) {
	case "allowed":
		truth(&v.Allowed)
	case "remaining":
		number(&v.Remaining)
	case "limit":
		number(&v.Limit)
	case "resetMs":
		number(&v.ResetMs)
	case "retryAfterMs":
		number((*int64)(&v.RetryAfterMs))
	case "banned":
		truth(&v.Banned)
	case "shadowed":
		truth(&v.Shadowed)
	case "granted":
		number(&v.Granted)
	case "revision":
		revision, bad := strconv.ParseUint(string(value), 10, 64)
		if bad != nil {
			refuse(err, at+".revision", "must be a whole number, not negative, of 64 bits")
		}
		v.Revision = revision
	case "version":
		v.Version = parseText(at+".version", value, err)
	case "code":
		v.Code = Code(parseText(at+".code", value, err))
	}
}
