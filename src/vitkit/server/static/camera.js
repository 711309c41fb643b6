// A photo from the camera, at the camera's own size. What is taken is what is sent.
import { byId } from "./dom.js";

const dialog = byId("camera"), video = byId("camera-video"), text = byId("camera-text"), take = byId("camera-take"), turn = byId("camera-turn");
let stream = null, facing = "environment", opening = 0;

const REASONS = {
  NotAllowedError: "The browser was not allowed to use the camera. Allow it in the browser's settings for this page, then open the camera again.",
  NotFoundError: "No camera was found. Connect one, or choose a photo instead.",
  NotReadableError: "The camera is used by another program. Close that program, then open the camera again.",
};

const stop = () => {
  opening++;
  stream?.getTracks().forEach(track => track.stop());
  stream = video.srcObject = null;
};

const start = async () => {
  stop();
  const mine = opening;
  take.disabled = true;
  text.textContent = "Waiting for the camera …";
  if (!navigator.mediaDevices?.getUserMedia) {
    text.textContent = "Browsers give the camera only to pages over https or from this machine itself. Choose a photo instead: most phones offer their camera there.";
    return;
  }
  try {
    const given = await navigator.mediaDevices.getUserMedia({ audio: false, video: { facingMode: facing, width: { ideal: 1920 }, height: { ideal: 1440 } } });
    if (mine !== opening) { given.getTracks().forEach(track => track.stop()); return; } // closed meanwhile
    stream = video.srcObject = given;
    await video.play();
    if (mine !== opening) return;
    text.textContent = `${video.videoWidth} × ${video.videoHeight} pixels`;
    take.disabled = false;
    const cameras = (await navigator.mediaDevices.enumerateDevices()).filter(device => device.kind === "videoinput");
    turn.hidden = cameras.length < 2;
  } catch (error) {
    if (mine === opening) text.textContent = REASONS[error.name] ?? `The camera cannot be used: ${error.message}. Choose a photo instead.`;
  }
};

export const onPhoto = taken => take.addEventListener("click", async () => {
  const canvas = new OffscreenCanvas(video.videoWidth, video.videoHeight);
  canvas.getContext("2d").drawImage(video, 0, 0);
  const photo = await canvas.convertToBlob({ type: "image/jpeg", quality: 0.95 });
  dialog.close();
  taken(new File([photo], "camera.jpg", { type: "image/jpeg" }));
});

byId("camera-open").addEventListener("click", () => { dialog.showModal(); start(); });
byId("camera-close").addEventListener("click", () => dialog.close());
turn.addEventListener("click", () => { facing = facing === "environment" ? "user" : "environment"; start(); });
dialog.addEventListener("close", stop);
