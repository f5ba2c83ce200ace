// The unchanged OpenAI SDK for JavaScript against a running penstock: node check.mjs URL
import assert from "node:assert/strict";
import OpenAI from "openai";

const client = new OpenAI({ baseURL: process.argv[2], apiKey: "EMPTY", maxRetries: 0 });
const ask = {
  model: "penstock-demo",
  messages: [{ role: "user", content: "Count from 1 to 30." }],
  temperature: 0,
  max_tokens: 200,
};
const counted = Array.from({ length: 30 }, (_, at) => at + 1).join(" ");

const whole = await client.chat.completions.create(ask);
assert.equal(whole.choices[0].message.content, counted);
assert.equal(whole.choices[0].finish_reason, "stop");

const stream = await client.chat.completions.create({ ...ask, stream: true, stream_options: { include_usage: true } });
let text = "";
let usage;
for await (const part of stream) {
  text += part.choices[0]?.delta?.content ?? "";
  usage = part.usage ?? usage;
}
assert.equal(text, counted);
assert.deepEqual(usage, whole.usage);

// comment lines come before, between and after numbered blocks when many streams wait for their turn
const many = await Promise.all(
  Array.from({ length: 64 }, async () => {
    let said = "";
    for await (const part of await client.chat.completions.create({ ...ask, stream: true })) {
      said += part.choices[0]?.delta?.content ?? "";
    }
    return said;
  }),
);
assert.deepEqual(new Set(many), new Set([counted]));

const completion = await client.completions.create({ model: "penstock-demo", prompt: "Who are you?", max_tokens: 40 });
assert.equal(completion.object, "text_completion");

await assert.rejects(client.chat.completions.create({ ...ask, temperature: 7 }), (error) => {
  assert.equal(error.status, 400);
  assert.equal(error.param, "temperature");
  return true;
});
await assert.rejects(client.models.retrieve("none/such"), { status: 404, code: "model_not_found" });

const cut = await client.chat.completions.create({ ...ask, stream: true });
for await (const part of cut) {
  assert.ok(part.id);
  cut.controller.abort();
  break;
}
console.log("clients: passed");
