package wire

// Tasks are asked for one by one, so that the request reads itself.

// ParseJSON reads a request as it stands on the wire. What is wrong comes back as
// INVALID_ARGUMENT that names the field. Input and Metadata share data.
func (r *TaskEnqueue) ParseJSON(data []byte) error {
	*r = TaskEnqueue{}
	object, err := jsonObject(data)
	if err != nil {
		return err
	}
	eachMember(object, func(name, value []byte) { r.parseMember(name, value, &err) })
	return err
}

// ParseJSON is [TaskEnqueue.ParseJSON] for what also says how long to wait.
func (r *TaskRun) ParseJSON(data []byte) error {
	*r = TaskRun{}
	object, err := jsonObject(data)
	if err != nil {
		return err
	}
	eachMember(object, func(name, value []byte) {
		if string(name) == "wait" && !isNull(value) {
			r.Wait = parseText("wait", value, &err)
			return
		}
		r.parseMember(name, value, &err)
	})
	return err
}

func (r *TaskEnqueue) parseMember(name, value []byte, err *error) {
	switch string(name) {
	case "input":
		r.Input = value
		return
	case "metadata":
		r.Metadata = value
		return
	}
	if isNull(value) {
		return
	}
	switch string(name) {
	case "name":
		r.Name = parseText("name", value, err)
	case "idempotencyKey":
		r.IdempotencyKey = parseText("idempotencyKey", value, err)
	case "uniqueKey":
		r.UniqueKey = parseText("uniqueKey", value, err)
	case "delay":
		r.Delay = parseText("delay", value, err)
	case "runAt":
		r.RunAt = parseText("runAt", value, err)
	case "timeout":
		r.Timeout = parseText("timeout", value, err)
	case "priority":
		n, ok := parseInt(value)
		if !ok {
			refuse(err, "priority", "must be a whole number of 64 bits")
		}
		r.Priority = int(n)
	}
}

// AppendJSON appends the answer as it stands on the wire.
func (r TaskEnqueued) AppendJSON(dst []byte) []byte {
	dst = AppendString(append(roomFor(dst, 64), `{"id":`...), r.ID)
	if r.Existing {
		dst = append(dst, `,"existing":true`...)
	}
	return append(dst, '}')
}
