"""NO MEDICAL ADVICE. Three opinions on how soon a patient must be seen; without agreement a person decides."""

import os
from pathlib import Path

from aixgo import AgentSpec, Ensemble, run
from aixgo.agents.classifier import ClassifierAgent
from on_call import OnCall

MODEL = os.environ.get("AIXGO_MODEL", f"test/script:{Path(__file__).parent / 'script.yaml'}")
OPINIONS = {
    "emergency_physician": "You are an emergency physician and miss nothing dangerous.",
    "family_doctor": "You are a family doctor and know how most complaints end.",
    "nurse": "You are a nurse who answers the phone every day.",
}
URGENCY = {
    "emergency": "a danger to life, call an ambulance",
    "today": "must be seen today",
    "appointment": "see the family doctor within days",
    "self-care": "rest, or ask at the pharmacy",
}
PATIENTS = (
    "A headache and a stiff neck for two days, and since this morning a fever of 39.5.",
    "A blister on the heel after walking in new shoes.",
    "A cough for five weeks, and I have lost some weight. No fever.",
)


def opinion(name: str, prompt: str) -> ClassifierAgent:
    asked, config = f"{prompt} How soon must this patient be seen?", {"categories": URGENCY}
    return ClassifierAgent(AgentSpec(name=name, role="classifier", model=(MODEL,), prompt=asked, config=config))


urgency = Ensemble(
    "urgency",
    [opinion(name, prompt) for name, prompt in OPINIONS.items()],
    min_agreement=0.6,
    fallback=OnCall(AgentSpec(name="on_call", role="on_call:OnCall")),
)

for patient in PATIENTS:
    reply = run(urgency, patient)
    print(f"{patient}\n   {reply.text}: votes {reply.metadata['votes']}, agreement {reply.metadata['agreement']:.2f}")
    if reply.metadata["used_fallback"]:
        print(f"   {reply.metadata['note']}")
