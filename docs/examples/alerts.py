"""Alerts of a Prefect server: a night that failed, crashed or starts late, and no good night for a day.

    python docs/examples/alerts.py https://hooks.example.com/services/…

PREFECT_API_URL names the server. Run it again to change the address: automations of these names are replaced.
"""

import argparse
from contextlib import suppress
from datetime import timedelta

from prefect.automations import Automation
from prefect.blocks.notifications import CustomWebhookNotificationBlock
from prefect.events.actions import SendNotification
from prefect.events.schemas.automations import EventTrigger, Posture

NIGHTS = {"prefect.resource.role": "flow", "prefect.resource.name": ["nightly", "backfill"]}
NIGHT = {"prefect.resource.role": "flow", "prefect.resource.name": "nightly"}
RUN = {"prefect.resource.id": "prefect.flow-run.*"}

parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
parser.add_argument("url", help='what takes a POST of {"text": "…"}: Slack, Mattermost, Teams, or a service of yours')
parser.add_argument("--hours", type=float, default=26, help="longest time without a night that completed")
options = parser.parse_args()

# Any other notification block does: SlackWebhook, PagerDutyWebHook, SendgridEmail, …
webhook = CustomWebhookNotificationBlock(name="tapstate", url=options.url, json_data={"text": "{{subject}}\n{{body}}"})
block = webhook.save("tapstate-alerts", overwrite=True)

bad = Automation(
    name="tapstate: a run failed, crashed or is late",
    trigger=EventTrigger(
        expect={f"prefect.flow-run.{state}" for state in ("Failed", "Crashed", "Late")},
        match=RUN,
        match_related=NIGHTS,
    ),
    actions=[
        SendNotification(
            block_document_id=block,
            subject="tapstate: {{ flow.name }} {{ flow_run.name }} is {{ flow_run.state.name }}",
            body="{{ flow_run.state.message }}\n{{ flow_run|ui_url or '' }}\ntapstate doctor says what else is wrong.",
        )
    ],
)
missing = Automation(
    name="tapstate: no good night",
    trigger=EventTrigger(
        posture=Posture.Proactive,
        expect={"prefect.flow-run.Completed"},
        match=RUN,
        match_related=NIGHT,
        within=timedelta(hours=options.hours),
    ),
    actions=[
        SendNotification(
            block_document_id=block,
            subject=f"tapstate: no night completed within {options.hours:g} hours",
            body="tapstate doctor says what is wrong.",
        )
    ],
)
for automation in (bad, missing):
    with suppress(ValueError):
        Automation.read(name=automation.name).delete()
    print(automation.create().name)
