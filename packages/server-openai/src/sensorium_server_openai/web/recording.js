// Recordings made in the browser. What can be recorded, the browser says, by media types; what is of
// use, the server, by the media types of its kinds. Tracks are named as the types of what they hold.

import { entriesFor } from "./attachments.js";

const FORMATS = ["webm", "mp4", "ogg"];

/** What can be recorded for these entries: {track, type, kind} each. */
export function recordables(media) {
  if (!navigator.mediaDevices || !window.MediaRecorder) return [];
  const tracks = new Set(media.flatMap((entry) => entry.media_types).map((type) => type.split("/")[0]));
  const found = [];
  for (const track of tracks) {
    const type = FORMATS.map((format) => `${track}/${format}`).find(
      (name) => MediaRecorder.isTypeSupported(name) && entriesFor(name, media).length,
    );
    if (type) found.push({ track, type, kind: entriesFor(type, media)[0].kind });
  }
  return found;
}

/** Begins a recording; `stop` of what it returns ends it and gives the file. */
export async function record({ track, type }) {
  const stream = await navigator.mediaDevices.getUserMedia({ [track]: true });
  const recorder = new MediaRecorder(stream, { mimeType: type });
  const pieces = [];
  recorder.ondataavailable = (event) => pieces.push(event.data);
  const ended = new Promise((resolve) => { recorder.onstop = resolve; });
  recorder.start();
  return {
    async stop() {
      if (recorder.state !== "inactive") recorder.stop();
      await ended;
      for (const each of stream.getTracks()) each.stop();
      return new File(pieces, `recording.${type.split("/")[1]}`, { type });
    },
  };
}
