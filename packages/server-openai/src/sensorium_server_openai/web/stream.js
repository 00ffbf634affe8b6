// Server-sent events of a streamed answer, and errors as sentences.

/** What went wrong, for people; `status` is HTTP's, 0 inside a stream. */
export class AnswerError extends Error {
  constructor(status, message) {
    super(message);
    this.status = status;
  }
}

/** Raises an AnswerError unless the response is fine. */
export async function check(response) {
  if (response.ok) return response;
  let message = `The server answered ${response.status}.`;
  try {
    message = (await response.json()).error.message || message;
  } catch {
    // Not ours: perhaps a proxy's page.
  }
  throw new AnswerError(response.status, message);
}

/** Yields the JSON of each event until [DONE]; raises if the stream ends before it. */
export async function* events(response) {
  const reader = response.body.pipeThrough(new TextDecoderStream()).getReader();
  let rest = "";
  for (;;) {
    const { done, value } = await reader.read();
    if (done) throw new AnswerError(0, "The answer was cut off: the connection ended.");
    const lines = (rest + value).split("\n");
    rest = lines.pop();
    for (const line of lines) {
      if (!line.startsWith("data:")) continue;
      const data = line.slice(5).trim();
      if (data === "[DONE]") return;
      const event = JSON.parse(data);
      if (event.error) throw new AnswerError(0, event.error.message);
      yield event;
    }
  }
}
