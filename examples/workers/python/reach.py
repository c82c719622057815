# A worker that listens to what clients publish below chat. When somebody asks
# there to clear the room it asks them whether they mean it: if so everybody
# hears of it, else they alone do.
import asyncio
import json
import os
import re
import time

import nats


def token(id):
    """A subject token of an id: all but [A-Za-z0-9_-] is escaped."""
    return re.sub(rb"[^A-Za-z0-9_-]", lambda m: b"=%02X" % m[0][0], id.encode()).decode()


async def main():
    nc = await nats.connect(os.environ.get("NATS_URL", "nats://127.0.0.1:4222"), max_reconnect_attempts=-1)

    async def clear_room(user, topic):
        patience = 30
        answer = await nc.request(
            f"fl.ask.{token(user)}",
            json.dumps({"text": f"Clear {topic}?"}).encode(),
            timeout=patience,
            headers={"Fl-Event": "confirm", "Fl-Deadline": str(int((time.time() + patience) * 1000))},
        )
        code = (answer.headers or {}).get("Nats-Service-Error-Code")
        if code == "NOT_FOUND":
            return  # gone meanwhile
        if not code and json.loads(answer.data).get("yes"):
            text = json.dumps({"text": f"by {user}"}).encode()
            await nc.publish(f"fl.topic.{topic}", text, headers={"Fl-Event": "cleared"})
            return
        text = json.dumps({"text": code or "not cleared"}).encode()
        await nc.publish(f"fl.user.{token(user)}", text, headers={"Fl-Event": "sorry", "Fl-Topic": topic})

    tasks = set()

    async def published(msg):
        headers = msg.headers or {}
        user = headers.get("Fl-User")
        if not user or headers.get("Fl-Event") != "clear":
            return  # of a worker, or something else
        # The next message does not wait for an answer.
        task = asyncio.create_task(clear_room(user, msg.subject.removeprefix("fl.topic.")))
        tasks.add(task)
        task.add_done_callback(tasks.discard)

    # Of the workers in a queue group one gets each message.
    await nc.subscribe("fl.topic.chat.>", queue="workers", cb=published)
    await nc.flush()
    print("ready", flush=True)
    await asyncio.Event().wait()


asyncio.run(main())
