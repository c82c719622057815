package auth

import (
	"bytes"
	"encoding/json"
	"fmt"
	"strconv"
	"time"
	"unicode/utf8"

	"github.com/golang-jwt/jwt/v5"

	"github.com/fairlead-io/fairlead/pkg/wire"
)

// Bounds of the claims under "fairlead".
const (
	maxAttributes = 4 << 10 // bytes of the claim
	maxInfo       = 4 << 10 // bytes of the claim, compact
	maxList       = 256     // entries of one list
	maxGroups     = 256
	maxRoles      = 32 // per group
	maxDate       = 253402300799
)

// claims are a token's claims, read by their exact names: encoding/json's
// struct fields would also take "EXP" for "exp". The registered claims are
// decoded with the token, what is under "fairlead" only once the signature is
// verified.
type claims struct {
	issuer   string
	subject  string
	audience jwt.ClaimStrings
	expires  *jwt.NumericDate
	issued   *jwt.NumericDate
	notUntil *jwt.NumericDate
	fairlead json.RawMessage
}

// UnmarshalJSON returns UNAUTHENTICATED naming the first claim that is wrong.
func (c *claims) UnmarshalJSON(b []byte) error {
	if !utf8.Valid(b) {
		return unauthenticated("token: its claims are not UTF-8")
	}
	fields, ok := object(b)
	if !ok {
		return unauthenticated("token: its claims are not an object")
	}
	*c = claims{fairlead: fields["fairlead"]}
	for _, f := range []struct {
		name  string
		value any
		rule  string
	}{
		{"iss", &c.issuer, "must be a string"},
		{"sub", &c.subject, "must be a string"},
		{"aud", &c.audience, "must be a string or a list of strings"},
	} {
		if present(fields[f.name]) && json.Unmarshal(fields[f.name], f.value) != nil {
			return badClaim(f.name, f.rule)
		}
	}
	for _, d := range []struct {
		name string
		date **jwt.NumericDate
	}{{"exp", &c.expires}, {"iat", &c.issued}, {"nbf", &c.notUntil}} {
		if !present(fields[d.name]) {
			continue
		}
		if *d.date, ok = parseDate(fields[d.name]); !ok {
			return badClaim(d.name, "must be a number of seconds since 1970")
		}
	}
	return nil
}

func present(raw json.RawMessage) bool { return len(raw) > 0 && !bytes.Equal(raw, []byte("null")) }

func parseDate(raw json.RawMessage) (*jwt.NumericDate, bool) {
	seconds, err := strconv.ParseFloat(string(raw), 64)
	if err != nil || seconds < 0 || seconds > maxDate {
		return nil, false
	}
	return jwt.NewNumericDate(time.Unix(int64(seconds), 0)), true
}

func (c *claims) GetExpirationTime() (*jwt.NumericDate, error) { return c.expires, nil }
func (c *claims) GetIssuedAt() (*jwt.NumericDate, error)       { return c.issued, nil }
func (c *claims) GetNotBefore() (*jwt.NumericDate, error)      { return c.notUntil, nil }
func (c *claims) GetIssuer() (string, error)                   { return c.issuer, nil }
func (c *claims) GetSubject() (string, error)                  { return c.subject, nil }
func (c *claims) GetAudience() (jwt.ClaimStrings, error)       { return c.audience, nil }

// identity returns what the claims grant, without a session. A claim that is
// not what it should be refuses the token: a list that was left out would
// grant more than the issuer meant.
func (c *claims) identity() (*Identity, error) {
	if wire.CheckUser(c.subject) != nil {
		return nil, badClaim("sub", "must be 1-128 bytes of UTF-8 without control characters")
	}
	if IsAnonymousUser(c.subject) {
		return nil, badClaim("sub", "must not begin with "+anonymousPrefix)
	}
	id := &Identity{User: c.subject}
	if c.issued != nil {
		id.IssuedAt = c.issued.Time
	}
	if c.expires != nil {
		id.ExpiresAt = c.expires.Time
	}
	if c.fairlead == nil {
		return id, nil
	}
	fields, ok := object(c.fairlead)
	if !ok {
		return nil, badClaim("fairlead", "must be an object")
	}
	var err error
	if id.Attributes, err = attributes(fields["attributes"]); err != nil {
		return nil, err
	}
	if id.Info, err = info(fields["info"]); err != nil {
		return nil, err
	}
	for _, l := range []struct {
		name  string
		list  *[]string
		check func(string) error
		what  string
	}{
		{"subscribe", &id.Subscribe, wire.CheckPattern, "topic pattern"},
		{"publish", &id.Publish, wire.CheckPattern, "topic pattern"},
		{"send", &id.Send, wire.CheckUser, "user id"},
		{"calls", &id.Calls, wire.CheckPattern, "method pattern"},
		{"topics", &id.Topics, wire.CheckPattern, "topic pattern"},
	} {
		if *l.list, err = list("fairlead."+l.name, fields[l.name], maxList, l.check, l.what); err != nil {
			return nil, err
		}
	}
	if id.Groups, err = groups(fields["groups"]); err != nil {
		return nil, err
	}
	return id, nil
}

func attributes(raw json.RawMessage) (map[string]string, error) {
	const name = "fairlead.attributes"
	if !present(raw) {
		return nil, nil
	}
	if len(raw) > maxAttributes {
		return nil, badClaim(name, fmt.Sprintf("must not be more than %d bytes", maxAttributes))
	}
	fields, ok := object(raw)
	if !ok {
		return nil, badClaim(name, "must be an object")
	}
	flat := make(map[string]string, len(fields))
	for key, value := range fields {
		if wire.CheckKey(key) != nil {
			return nil, badClaim(name, "must have names of 1-128 bytes without control characters")
		}
		switch value[0] {
		case '"':
			var s string
			if err := json.Unmarshal(value, &s); err != nil {
				return nil, badClaim(name, "must be an object")
			}
			flat[key] = s
		case '{', '[', 'n': // nested or null: not an attribute
		default:
			flat[key] = string(value)
		}
	}
	return flat, nil
}

func info(raw json.RawMessage) (json.RawMessage, error) {
	if !present(raw) {
		return nil, nil
	}
	var compact bytes.Buffer
	if err := json.Compact(&compact, raw); err != nil {
		return nil, badClaim("fairlead.info", "must be JSON")
	}
	if compact.Len() > maxInfo {
		return nil, badClaim("fairlead.info", fmt.Sprintf("must not be more than %d bytes", maxInfo))
	}
	return compact.Bytes(), nil
}

// list returns nil only where the claim is absent. A null is refused: it may
// have meant "nothing" as well as "everything".
func list(name string, raw json.RawMessage, most int, check func(string) error, what string) ([]string, error) {
	if raw == nil {
		return nil, nil
	}
	var values []*string
	if !present(raw) || json.Unmarshal(raw, &values) != nil {
		return nil, badClaim(name, "must be a list of "+what+"s")
	}
	if len(values) > most {
		return nil, badClaim(name, fmt.Sprintf("must not have more than %d entries", most))
	}
	checked := make([]string, len(values))
	for i, value := range values {
		if value == nil || check(*value) != nil {
			return nil, badClaim(fmt.Sprintf("%s[%d]", name, i), "is not a "+what)
		}
		checked[i] = *value
	}
	return checked, nil
}

func groups(raw json.RawMessage) (map[string][]string, error) {
	const name = "fairlead.groups"
	if !present(raw) {
		return nil, nil
	}
	fields, ok := object(raw)
	if !ok {
		return nil, badClaim(name, "must be an object of lists of roles")
	}
	if len(fields) > maxGroups {
		return nil, badClaim(name, fmt.Sprintf("must not have more than %d entries", maxGroups))
	}
	roles := make(map[string][]string, len(fields))
	for group, value := range fields {
		if wire.CheckGroup(group) != nil {
			return nil, badClaim(name, "must have groups of 1-128 bytes without control characters")
		}
		var err error
		if roles[group], err = list(name, value, maxRoles, wire.CheckRole, "role"); err != nil {
			return nil, err
		}
	}
	return roles, nil
}

func object(raw json.RawMessage) (map[string]json.RawMessage, bool) {
	var fields map[string]json.RawMessage
	err := json.Unmarshal(raw, &fields)
	return fields, err == nil && fields != nil
}

func badClaim(name, rule string) *wire.Error {
	return unauthenticated("token: claim %s: %s", name, rule)
}
